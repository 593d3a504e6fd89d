//! Runs every kernel of a PTX file that `fuzz/fuzz.py` made, and prints what its 128 threads give.

use ostro_cuda_emulator::driver::{Driver, Source, Work};
use ostro_cuda_emulator::ptx;
use ostro_cuda_emulator::settings::Settings;

fn main() {
    let path = std::env::args().nth(1).expect("a PTX file");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    let names: Vec<String> =
        ptx::parse(&text).unwrap_or_else(|e| panic!("{path}: {e}")).kernels.into_iter().map(|k| k.name).collect();
    let mut driver = Driver::new(Settings { check_init: true, check_race: true, ..Settings::default() });
    let module = driver.load(&text).expect("PTX that was parsed");

    // The numbers of the program that g++ makes.
    let mut state = 12345u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state as i32
    };
    let whole: Vec<u8> = (0..129).flat_map(|i| (next() >> (i % 24)).to_le_bytes()).collect();
    let floats: Vec<u8> = (0..128).flat_map(|i| (next() as f32 / (1u32 << (i % 31)) as f32).to_le_bytes()).collect();
    let mut put = |bytes: &[u8]| {
        let at = driver.allocate(bytes.len()).expect("room");
        driver.queue(0, Work::ToCard(Source::Copied(bytes.to_vec()), at)).expect("room");
        at
    };
    let (a, f, out) = (put(&whole), put(&floats), put(&[0; 1024]));
    for name in names {
        let function = driver.function(module, &name).expect("a kernel of the file");
        let parameters = [a, f, out].map(u64::to_le_bytes).concat();
        driver.launch(function, [2, 1, 1], 64, 0, 0, parameters).expect("an ordinary launch");
        let mut bytes = vec![0u8; 1024];
        driver.queue(0, Work::ToHost(out, bytes.as_mut_ptr() as usize, 1024)).expect("its place");
        driver.synchronize(0).unwrap_or_else(|e| panic!("{name}: error {e}"));
        let words = bytes.as_chunks::<8>().0.iter().map(|&b| format!(" {:016x}", u64::from_le_bytes(b)));
        println!("{name}{}", words.collect::<String>());
    }
}
