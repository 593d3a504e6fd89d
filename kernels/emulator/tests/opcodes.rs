//! What each instruction gives, against plain Rust: a table of snippets, from %r2 (and %r3, another lane's value) to %r4.

mod common;

use common::{Card, kernel, strict};

/// 64 words that hit signs, zeros, small and large numbers.
fn words() -> Vec<u32> {
    let special = [0, 1, 2, 31, 32, 33, 0x7f, 0x80, 0xff, 0x7fff, 0x8000, 0xffff, 0x7fff_ffff, 0x8000_0000, u32::MAX];
    let mut x = 0x1234_5678u32;
    let random = std::iter::repeat_with(move || {
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
        x
    });
    special.into_iter().chain(random).take(64).collect()
}

/// Ordinary floats and some that are not.
fn floats() -> Vec<u32> {
    let special =
        [0.0, -0.0, 1.0, -1.0, 0.5, 1.5, 2.5, -2.5, 1e-40, f32::INFINITY, f32::NEG_INFINITY, 3.4e38, 65504.0, 1e-7];
    let random = words().into_iter().map(|w| (w as i32 as f32) / 65536.0);
    special.into_iter().chain(random).take(64).map(f32::to_bits).collect()
}

fn f(bits: u32) -> f32 {
    f32::from_bits(bits)
}

/// Runs a snippet on 64 threads: %r2 is the thread's word, %r3 the word of the thread after it.
fn outputs(snippet: &str, input: &[u32]) -> Vec<u32> {
    let body = format!(
        "add.s64 %rd6, %rd2, %rd3;\nld.global.u32 %r2, [%rd6];\nadd.s32 %r5, %r1, 1;\nand.b32 %r5, %r5, 63;\n\
         mul.wide.u32 %rd7, %r5, 4;\nadd.s64 %rd8, %rd2, %rd7;\nld.global.nc.u32 %r3, [%rd8];\n\
         mov.b32 %f2, %r2;\nmov.b32 %f3, %r3;\n{snippet}\nadd.s64 %rd9, %rd1, %rd3;\nst.global.u32 [%rd9], %r4;"
    );
    Card::new(strict(), input).run(&kernel(&body), 1, 64).unwrap_or_else(|e| panic!("{snippet}: error {e}"))
}

type Row = (&'static str, fn(u32, u32) -> u32);

fn check(input: &[u32], rows: &[Row]) {
    let mut wrong = Vec::new();
    for (snippet, want) in rows {
        for (i, got) in outputs(snippet, input).into_iter().enumerate() {
            let (a, b) = (input[i], input[(i + 1) % 64]);
            let want = want(a, b);
            let same = got == want || f(got).is_nan() && f(want).is_nan() && snippet.contains(".f32");
            if !same {
                wrong.push(format!("{snippet} of {a:#x}, {b:#x}: {got:#x}, expected {want:#x}"));
                break;
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn whole_numbers() {
    check(
        &words(),
        &[
            ("add.s32 %r4, %r2, %r3;", u32::wrapping_add),
            ("sub.s32 %r4, %r2, %r3;", u32::wrapping_sub),
            ("mul.lo.s32 %r4, %r2, %r3;", u32::wrapping_mul),
            ("mul.hi.u32 %r4, %r2, %r3;", |a, b| ((u64::from(a) * u64::from(b)) >> 32) as u32),
            ("mul.hi.s32 %r4, %r2, %r3;", |a, b| ((i64::from(a as i32) * i64::from(b as i32)) >> 32) as u32),
            ("mad.lo.s32 %r4, %r2, %r3, 7;", |a, b| a.wrapping_mul(b).wrapping_add(7)),
            ("mul.wide.s32 %rd20, %r2, %r3;\nshr.u64 %rd21, %rd20, 32;\ncvt.u32.u64 %r4, %rd21;", |a, b| {
                ((i64::from(a as i32) * i64::from(b as i32)) >> 32) as u32
            }),
            ("or.b32 %r6, %r3, 1;\ndiv.s32 %r4, %r2, %r6;", |a, b| (a as i32).wrapping_div((b | 1) as i32) as u32),
            ("or.b32 %r6, %r3, 1;\nrem.s32 %r4, %r2, %r6;", |a, b| (a as i32).wrapping_rem((b | 1) as i32) as u32),
            ("or.b32 %r6, %r3, 1;\ndiv.u32 %r4, %r2, %r6;", |a, b| a / (b | 1)),
            ("min.s32 %r4, %r2, %r3;", |a, b| (a as i32).min(b as i32) as u32),
            ("max.u32 %r4, %r2, %r3;", u32::max),
            ("neg.s32 %r4, %r2;", |a, _| a.wrapping_neg()),
            ("abs.s32 %r4, %r2;", |a, _| (a as i32).wrapping_abs() as u32),
            ("and.b32 %r4, %r2, %r3;", |a, b| a & b),
            ("xor.b32 %r4, %r2, %r3;", |a, b| a ^ b),
            ("not.b32 %r4, %r2;", |a, _| !a),
            ("and.b32 %r6, %r3, 63;\nshl.b32 %r4, %r2, %r6;", |a, b| a.checked_shl(b & 63).unwrap_or(0)),
            ("and.b32 %r6, %r3, 63;\nshr.u32 %r4, %r2, %r6;", |a, b| a.checked_shr(b & 63).unwrap_or(0)),
            ("and.b32 %r6, %r3, 63;\nshr.s32 %r4, %r2, %r6;", |a, b| ((a as i32) >> (b & 63).min(31)) as u32),
            ("bfi.b32 %r4, %r2, %r3, 8, 5;", |a, b| b & !(31 << 8) | (a & 31) << 8),
            ("bfe.s32 %r4, %r2, 4, 6;", |a, _| (((a as i32) << 22) >> 26) as u32),
            ("bfe.u32 %r4, %r2, 4, 6;", |a, _| a >> 4 & 63),
            ("shf.l.wrap.b32 %r4, %r2, %r3, 37;", |a, b| b << 5 | a >> 27),
            ("shf.r.wrap.b32 %r4, %r2, %r3, 5;", |a, b| b << 27 | a >> 5),
            ("shf.l.clamp.b32 %r4, %r2, %r3, 40;", |a, _| a),
            ("popc.b32 %r4, %r2;", |a, _| a.count_ones()),
            ("clz.b32 %r4, %r2;", |a, _| a.leading_zeros()),
            ("prmt.b32 %r4, %r2, %r3, 0x5410;", |a, b| a & 0xffff | b << 16),
            ("prmt.b32 %r4, %r2, %r3, 0xb3;", |a, _| {
                let sign = if a >> 31 == 1 { 0xff } else { 0 };
                a >> 24 | sign << 8 | (a & 0xff) << 16 | (a & 0xff) << 24
            }),
            ("dp4a.s32.s32 %r4, %r2, %r3, 5;", |a, b| {
                let product = |i: u32| i32::from((a >> i) as i8) * i32::from((b >> i) as i8);
                (5 + product(0) + product(8) + product(16) + product(24)) as u32
            }),
            (
                "setp.lt.s32 %p1, %r2, %r3;\nselp.b32 %r4, %r2, 9, %p1;",
                |a, b| if (a as i32) < (b as i32) { a } else { 9 },
            ),
            ("setp.gt.u32 %p1, %r2, %r3;\nselp.b32 %r4, %r2, 9, %p1;", |a, b| if a > b { a } else { 9 }),
            ("cvt.u16.u32 %rs1, %r2;\ncvt.u32.u16 %r4, %rs1;", |a, _| a & 0xffff),
            ("cvt.u16.u32 %rs1, %r2;\ncvt.s16.s8 %rs2, %rs1;\ncvt.s32.s16 %r4, %rs2;", |a, _| a as i8 as i32 as u32),
            ("cvt.s64.s32 %rd20, %r2;\nshr.s64 %rd21, %rd20, 4;\ncvt.u32.u64 %r4, %rd21;", |a, _| {
                (i64::from(a as i32) >> 4) as u32
            }),
            ("ld.global.s32 %rd20, [%rd6];\nshr.s64 %rd21, %rd20, 8;\ncvt.u32.u64 %r4, %rd21;", |a, _| {
                (i64::from(a as i32) >> 8) as u32
            }),
            ("ld.global.s8 %r6, [%rd6];\nadd.s32 %r4, %r6, 0;", |a, _| a as i8 as i32 as u32),
            ("ld.global.s16 %rd20, [%rd6+2];\ncvt.u32.u64 %r4, %rd20;", |a, _| (a >> 16) as u16 as i16 as i32 as u32),
            ("setp.nan.f32 %p1, %f2, %f2;\nselp.b32 %r4, 1, 0, %p1;", |a, _| u32::from(f(a).is_nan())),
            ("mov.b32 {%rs1, %rs2}, %r2;\nmov.b32 %r4, {%rs2, %rs1};", |a, _| a.rotate_left(16)),
            (
                "mov.u32 %r4, 0;\nsetp.eq.s32 %p1, %r2, 0;\n@%p1 bra L1;\nmov.u32 %r4, 5;\nL1:\nadd.s32 %r4, %r4, 1;",
                |a, _| {
                    if a == 0 { 1 } else { 6 }
                },
            ),
            (
                "and.b32 %r6, %r2, 7;\nmov.u32 %r4, 0;\nL1:\nadd.s32 %r4, %r4, 3;\nsub.s32 %r6, %r6, 1;\nsetp.ge.s32 %p1, %r6, 0;\n@%p1 bra L1;",
                |a, _| 3 * ((a & 7) + 1),
            ),
            ("shfl.sync.bfly.b32 %r4, %r2, 1, 31, -1;\nxor.b32 %r4, %r4, %r4;", |_, _| 0),
            ("and.b32 %r6, %r1, 31;\nshfl.sync.down.b32 %r4|%p1, %r3, 0, 31, -1;", |_, b| b),
        ],
    );
}

#[test]
fn lanes_exchange() {
    let input = words();
    let butterfly = outputs("shfl.sync.bfly.b32 %r4, %r2, 5, 31, -1;", &input);
    let up = outputs("shfl.sync.up.b32 %r4, %r2, 3, 0, -1;", &input);
    let down = outputs("shfl.sync.down.b32 %r4, %r2, 3, 31, -1;", &input);
    let from = outputs("shfl.sync.idx.b32 %r4, %r2, 7, 31, -1;", &input);
    for lane in 0..64usize {
        let (warp, l) = (lane / 32 * 32, lane % 32);
        assert_eq!(butterfly[lane], input[warp + (l ^ 5)], "lane {lane}");
        assert_eq!(up[lane], input[warp + if l < 3 { l } else { l - 3 }], "lane {lane}");
        assert_eq!(down[lane], input[warp + if l > 28 { l } else { l + 3 }], "lane {lane}");
        assert_eq!(from[lane], input[warp + 7], "lane {lane}");
    }
}

#[test]
fn floating_numbers() {
    check(
        &floats(),
        &[
            ("add.f32 %f4, %f2, %f3;\nmov.b32 %r4, %f4;", |a, b| (f(a) + f(b)).to_bits()),
            ("sub.rn.f32 %f4, %f2, %f3;\nmov.b32 %r4, %f4;", |a, b| (f(a) - f(b)).to_bits()),
            ("mul.rn.f32 %f4, %f2, %f3;\nmov.b32 %r4, %f4;", |a, b| (f(a) * f(b)).to_bits()),
            ("div.rn.f32 %f4, %f2, %f3;\nmov.b32 %r4, %f4;", |a, b| (f(a) / f(b)).to_bits()),
            ("fma.rn.f32 %f4, %f2, %f3, 0f3F800000;\nmov.b32 %r4, %f4;", |a, b| f(a).mul_add(f(b), 1.0).to_bits()),
            ("max.f32 %f4, %f2, %f3;\nmov.b32 %r4, %f4;", |a, b| {
                // Of zeros the one without a sign is the larger.
                if f(a) == f(b) { a & b } else { f(a).max(f(b)).to_bits() }
            }),
            (
                "min.f32 %f4, %f2, %f3;\nmov.b32 %r4, %f4;",
                |a, b| if f(a) == f(b) { a | b } else { f(a).min(f(b)).to_bits() },
            ),
            ("neg.f32 %f4, %f2;\nmov.b32 %r4, %f4;", |a, _| a ^ 0x8000_0000),
            ("abs.f32 %f4, %f2;\nmov.b32 %r4, %f4;", |a, _| a & 0x7fff_ffff),
            ("abs.f32 %f5, %f2;\nsqrt.rn.f32 %f4, %f5;\nmov.b32 %r4, %f4;", |a, _| f(a).abs().sqrt().to_bits()),
            ("rcp.rn.f32 %f4, %f2;\nmov.b32 %r4, %f4;", |a, _| (1.0 / f(a)).to_bits()),
            ("cvt.rni.s32.f32 %r4, %f2;", |a, _| f(a).round_ties_even() as i32 as u32),
            ("cvt.rzi.s32.f32 %r4, %f2;", |a, _| f(a) as i32 as u32),
            ("cvt.rmi.s32.f32 %r4, %f2;", |a, _| f(a).floor() as i32 as u32),
            ("cvt.rn.f32.s32 %f4, %r2;\nmov.b32 %r4, %f4;", |a, _| (a as i32 as f32).to_bits()),
            ("cvt.rn.f32.u32 %f4, %r2;\nmov.b32 %r4, %f4;", |a, _| (a as f32).to_bits()),
            ("cvt.sat.f32.f32 %f4, %f2;\nmov.b32 %r4, %f4;", |a, _| f(a).clamp(0.0, 1.0).to_bits()),
            (
                "cvt.f64.f32 %fd1, %f2;\nadd.f64 %fd2, %fd1, %fd1;\ncvt.rn.f32.f64 %f4, %fd2;\nmov.b32 %r4, %f4;",
                |a, _| ((f64::from(f(a)) * 2.0) as f32).to_bits(),
            ),
            ("setp.ltu.f32 %p1, %f2, %f3;\nselp.b32 %r4, 1, 0, %p1;", |a, b| {
                u32::from(f(a) < f(b) || f(a).is_nan() || f(b).is_nan())
            }),
            ("setp.ge.f32 %p1, %f2, %f3;\nselp.b32 %r4, 1, 0, %p1;", |a, b| u32::from(f(a) >= f(b))),
            ("setp.gt.ftz.f32 %p1, %f2, 0f00000000;\nselp.b32 %r4, 1, 0, %p1;", |a, _| {
                u32::from(!f(a).is_subnormal() && f(a) > 0.0)
            }),
            ("add.ftz.f32 %f4, %f2, 0f00000000;\nmov.b32 %r4, %f4;", |a, _| {
                if f(a).is_subnormal() { 0 } else { (f(a) + 0.0).to_bits() }
            }),
        ],
    );
}

/// Rounded down, a sum is the largest number that is not above it.
#[test]
fn a_product_rounded_down() {
    let input = floats();
    let down = outputs("fma.rm.f32 %f4, %f2, 0f437C0000, 0f4B400001;\nmov.b32 %r4, %f4;", &input);
    for (&a, got) in input.iter().zip(down) {
        let exact = f64::from(f(a)) * 252.0 + 12_582_913.0;
        if exact.abs() < 3e38 && f(a).abs() < 65536.0 {
            assert!(
                f64::from(f(got)) <= exact && f64::from(f(got).next_up()) > exact,
                "{}: {} of {exact}",
                f(a),
                f(got)
            );
        }
    }
}

/// Every f16 to f32 and back is the same, but for what is no number.
#[test]
fn halves_go_and_come() {
    for first in (0..=0xffffu32).step_by(64) {
        let input: Vec<u32> = (first..first + 64).collect();
        let snippet =
            "cvt.u16.u32 %rs1, %r2;\ncvt.f32.f16 %f4, %rs1;\ncvt.rn.f16.f32 %rs2, %f4;\ncvt.u32.u16 %r4, %rs2;";
        for (want, got) in input.iter().zip(outputs(snippet, &input)) {
            let is_number = want & 0x7c00 != 0x7c00 || want & 0x3ff == 0;
            assert!(got == *want || !is_number, "{want:#x} came back as {got:#x}");
        }
    }
}

/// The products of the tensor cores against their definition, each element told apart by its place.
#[test]
fn tensor_cores() {
    let a = |row: usize, k: usize| (row * 7 + k * 3) as i32 % 23 - 11;
    let b = |k: usize, column: usize| (k * 5 + column * 11) as i32 % 19 - 9;
    let pack = |bytes: [i32; 4]| {
        bytes.iter().enumerate().fold(0u32, |word, (i, &v)| word | u32::from(v as i8 as u8) << (8 * i))
    };
    // Registers of each lane: four of the first matrix, two of the second, by the manual's tables.
    let mut input = Vec::new();
    for lane in 0..32 {
        let (g, t) = (lane / 4, lane % 4);
        for i in 0..4 {
            input.push(pack(std::array::from_fn(|z| a(g + 8 * (i % 2), 4 * t + z + 16 * (i / 2)))));
        }
        for i in 0..2 {
            input.push(pack(std::array::from_fn(|z| b(4 * t + z + 16 * i, g))));
        }
    }
    input.resize(32 * 6, 0);
    let loads: String = (0..6).map(|i| format!("ld.global.u32 %r{}, [%rd7+{}];\n", 10 + i, 4 * i)).collect();
    let stores: String = (0..4).map(|i| format!("st.global.u32 [%rd9+{}], %r{};\n", 4 * i, 20 + i)).collect();
    let body = format!(
        "mul.wide.u32 %rd6, %r1, 24;\nadd.s64 %rd7, %rd2, %rd6;\n{loads}mov.u32 %r16, 100;\n\
         mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {{%r20,%r21,%r22,%r23}},{{%r10,%r11,%r12,%r13}},{{%r14,%r15}},{{%r16,%r16,%r16,%r16}};\n\
         mul.wide.u32 %rd8, %r1, 16;\nadd.s64 %rd9, %rd1, %rd8;\n{stores}"
    );
    let got = Card::new(strict(), &input).run(&kernel(&body), 1, 32).unwrap();
    for lane in 0..32 {
        for i in 0..4 {
            let (row, column) = (lane / 4 + 8 * (i / 2), lane % 4 * 2 + i % 2);
            let want: i32 = 100 + (0..32).map(|k| a(row, k) * b(k, column)).sum::<i32>();
            assert_eq!(got[4 * lane + i] as i32, want, "row {row}, column {column}");
        }
    }
}

#[test]
fn what_is_not_emulated_is_refused_at_load() {
    for snippet in [
        "vote.sync.all.pred %p1, %p2, -1;",
        "ld.u32 %r4, [%rd1];",
        "add.sat.s32 %r4, %r2, %r3;",
        "foo.b32 %r4;",
        // Forms of known instructions that mean something else.
        "add.rm.f32 %f4, %f2, %f3;",
        "mad.hi.s32 %r4, %r2, %r3, %r1;",
        "fma.rm.ftz.f32 %f4, %f2, %f3, %f2;",
        "add.f16x2 %r4, %r2, %r3;",
        "min.NaN.f32 %f4, %f2, %f3;",
    ] {
        assert_eq!(Card::new(strict(), &[0]).run(&kernel(snippet), 1, 1), Err(218), "{snippet}");
    }
}
