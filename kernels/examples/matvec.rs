//! One product on a card with one column, of a type and shape: what an emulated driver counts of it is the mat-vec's own.
//!
//! `matvec TYPE ROWS K` prints the bytes of the weights. `kernels/cuda/counts.py` runs it.

#[cfg(feature = "cuda")]
fn main() {
    use ostro_kernels::cuda::Gpu;
    use ostro_kernels::synthetic::{Random, weights};
    use ostro_kernels::{DType, Mat};

    let args: Vec<String> = std::env::args().skip(1).collect();
    let [name, rows, k] = args.as_slice() else { panic!("matvec TYPE ROWS K") };
    let dtype = *DType::ALL.iter().find(|t| t.name() == name).expect("a type of weights");
    let (rows, k) = (rows.parse().expect("rows"), k.parse().expect("columns"));
    let gpu = Gpu::open().unwrap_or_else(|why| panic!("{why}"));
    let mut random = Random::new(1);
    let bytes = weights(dtype, rows, k, &mut random);
    let w = gpu.upload(&[Mat::new(dtype, rows, k, &bytes).expect("whole rows")]).unwrap();
    let x = gpu.buffer(k).unwrap();
    gpu.write(&x, 0, &(0..k).map(|_| random.signed()).collect::<Vec<f32>>()).unwrap();
    let mut acts = gpu.acts(k).unwrap();
    let mut out = gpu.buffer(rows).unwrap();
    gpu.quantize(&mut acts, &x, 1, k, &[dtype]).unwrap();
    gpu.matmul(&acts, &x, &w, &mut out, false).unwrap();
    gpu.synchronize().unwrap();
    println!("{}", bytes.len());
}

#[cfg(not(feature = "cuda"))]
fn main() {
    panic!("built without the feature cuda");
}
