//! Arithmetic of one instruction on all lanes of a warp.
//!
//! Values are 64 bits wide; narrower ones have zeros above. Results of lanes that are not active are computed too and dropped by
//! the caller: that is what makes loops over lanes vectors.

use super::LANES;
use crate::ptx::{Compare, Instruction, Op, Round, Type};

/// The values of a register in all lanes.
pub(super) type Lanes = [u64; LANES];

fn f32_of(x: u64) -> f32 {
    f32::from_bits(x as u32)
}

fn bits(x: f32) -> u64 {
    u64::from(x.to_bits())
}

/// Subnormal numbers as zero of the same sign.
fn flushed(x: f32) -> f32 {
    if x.is_subnormal() { 0.0f32.copysign(x) } else { x }
}

/// A number of a type with its sign.
fn extended(x: u64, ty: Type) -> i64 {
    match ty {
        Type::S8 => x as i8 as i64,
        Type::S16 => x as i16 as i64,
        Type::S32 => x as i32 as i64,
        Type::U8 | Type::Pred => x as u8 as i64,
        Type::U16 => x as u16 as i64,
        Type::U32 => x as u32 as i64,
        _ => x as i64,
    }
}

/// A number extended by its sign to a register of so many bytes.
pub(super) fn widened(x: u64, ty: Type, width: usize) -> u64 {
    let x = extended(x, ty) as u64;
    if width >= 8 { x } else { x & ((1 << (8 * width)) - 1) }
}

/// The bits of a type, zeros above.
fn cut(x: u64, ty: Type) -> u64 {
    match ty.bytes() {
        1 if ty == Type::Pred => x & 1,
        1 => x & 0xff,
        2 => x & 0xffff,
        4 => x & 0xffff_ffff,
        _ => x,
    }
}

/// f16 to f32, exactly.
pub(super) fn half_to_f32(h: u16) -> f32 {
    let sign = u32::from(h & 0x8000) << 16;
    let (exponent, mantissa) = (u32::from(h >> 10 & 31), u32::from(h & 0x3ff));
    f32::from_bits(match exponent {
        31 => sign | 0x7f80_0000 | mantissa << 13,
        0 => sign | (mantissa as f32 / 16_777_216.0).to_bits(),
        _ => sign | (exponent + 112) << 23 | mantissa << 13,
    })
}

/// f32 to f16, to nearest, ties to even.
pub(super) fn f32_to_half(x: f32) -> u16 {
    let bits = x.to_bits();
    let (sign, magnitude) = ((bits >> 16) as u16 & 0x8000, bits & 0x7fff_ffff);
    sign | match magnitude {
        0x7f80_0001.. => 0x7fff,
        0x477f_f000.. => 0x7c00,
        0x3880_0000.. => {
            let shifted = magnitude - 0x3800_0000;
            ((shifted + 0xfff + (shifted >> 13 & 1)) >> 13) as u16
        }
        _ => (f32::from_bits(magnitude) * 16_777_216.0).round_ties_even() as u16,
    }
}

/// f32 to bf16, to nearest, ties to even.
fn f32_to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    if x.is_nan() { 0x7fff } else { ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16 }
}

/// `a * b + c`, rounded down. The product of two f32 is exact in f64; the error of the sum says on which side it lies.
fn fma_down(a: f32, b: f32, c: f32) -> f32 {
    let (product, c) = (f64::from(a) * f64::from(b), f64::from(c));
    let sum = product + c;
    let back = sum - product;
    let error = (product - (sum - back)) + (c - back);
    let rounded = sum as f32;
    let above = f64::from(rounded) > sum || f64::from(rounded) == sum && error < 0.0;
    if above { rounded.next_down() } else { rounded }
}

fn each1(a: &Lanes, f: impl Fn(u64) -> u64) -> Lanes {
    std::array::from_fn(|l| f(a[l]))
}

fn each2(a: &Lanes, b: &Lanes, f: impl Fn(u64, u64) -> u64) -> Lanes {
    std::array::from_fn(|l| f(a[l], b[l]))
}

fn each3(a: &Lanes, b: &Lanes, c: &Lanes, f: impl Fn(u64, u64, u64) -> u64) -> Lanes {
    std::array::from_fn(|l| f(a[l], b[l], c[l]))
}

/// A binary operation of floats, in its type.
fn float2(
    i: &Instruction,
    a: &Lanes,
    b: &Lanes,
    f: impl Fn(f32, f32) -> f32,
    d: impl Fn(f64, f64) -> f64,
) -> Option<Lanes> {
    match i.ty {
        Type::F32 if i.ftz => Some(each2(a, b, |a, b| bits(flushed(f(flushed(f32_of(a)), flushed(f32_of(b))))))),
        Type::F32 => Some(each2(a, b, |a, b| bits(f(f32_of(a), f32_of(b))))),
        Type::F64 => Some(each2(a, b, |a, b| d(f64::from_bits(a), f64::from_bits(b)).to_bits())),
        _ => None,
    }
}

fn float1(i: &Instruction, a: &Lanes, f: impl Fn(f32) -> f32, d: impl Fn(f64) -> f64) -> Option<Lanes> {
    float2(i, a, a, |a, _| f(a), |a, _| d(a))
}

/// The minimum of PTX: a number wins over what is none.
fn least(a: f32, b: f32) -> f32 {
    if a.is_nan() {
        b
    } else if b.is_nan() || a < b || (a == b && a.is_sign_negative()) {
        a
    } else {
        b
    }
}

fn compare(op: Compare, order: Option<std::cmp::Ordering>) -> bool {
    use Compare::*;
    use std::cmp::Ordering as O;
    match (op, order) {
        (Neu | Equ | Ltu | Leu | Gtu | Geu | Nan, None) => true,
        (_, None) => false,
        (Num, Some(_)) => true,
        (Nan, Some(_)) => false,
        (Eq | Equ, Some(o)) => o == O::Equal,
        (Ne | Neu, Some(o)) => o != O::Equal,
        (Lt | Ltu, Some(o)) => o == O::Less,
        (Le | Leu, Some(o)) => o != O::Greater,
        (Gt | Gtu, Some(o)) => o == O::Greater,
        (Ge | Geu, Some(o)) => o != O::Less,
    }
}

/// Picks bytes of two words by the nibbles of a third.
fn prmt(a: u32, b: u32, selector: u32) -> u32 {
    let bytes = u64::from(a) | u64::from(b) << 32;
    let byte = |i: u32| {
        let select = selector >> (4 * i) & 15;
        let byte = (bytes >> (8 * (select & 7))) as u8;
        u32::from(if select & 8 == 0 { byte } else { ((byte as i8) >> 7) as u8 })
    };
    byte(0) | byte(1) << 8 | byte(2) << 16 | byte(3) << 24
}

fn dp4a(a: u32, b: u32, c: u32, signed: bool) -> u32 {
    (0..4).fold(c, |sum, i| {
        let (a, b) = ((a >> (8 * i)) as u8, (b >> (8 * i)) as u8);
        let product = if signed { i32::from(a as i8) * i32::from(b as i8) } else { i32::from(a) * i32::from(b) };
        sum.wrapping_add(product as u32)
    })
}

fn round(x: f64, how: Round) -> f64 {
    match how {
        Round::Nearest => x.round_ties_even(),
        Round::Zero => x.trunc(),
        Round::Down => x.floor(),
        Round::Up => x.ceil(),
    }
}

/// One conversion.
fn convert(i: &Instruction, x: u64, rounding: Option<Round>, saturate: bool, whole: bool) -> Option<u64> {
    let (to, from) = (i.ty, i.from);
    let limits = |ty: Type| -> (i128, i128) {
        let size = 8 * ty.bytes() as u32;
        if ty.signed() { (-(1 << (size - 1)), (1 << (size - 1)) - 1) } else { (0, (1 << size) - 1) }
    };
    if !from.float() && !to.float() {
        let value = if from == Type::U64 { i128::from(x) } else { i128::from(extended(x, from)) };
        let value = if saturate { value.clamp(limits(to).0, limits(to).1) } else { value };
        return Some(widened(value as u64, to, i.width));
    }
    if !from.float() {
        let signed = from.signed();
        let value = extended(x, from);
        return Some(match to {
            Type::F32 if signed => bits(value as f32),
            Type::F32 => bits(value as u64 as f32),
            Type::F64 if signed => (value as f64).to_bits(),
            Type::F64 => (value as u64 as f64).to_bits(),
            _ => return None,
        });
    }
    let value = match from {
        Type::F32 if i.ftz => f64::from(flushed(f32_of(x))),
        Type::F32 => f64::from(f32_of(x)),
        Type::F64 => f64::from_bits(x),
        Type::F16 => f64::from(half_to_f32(x as u16)),
        _ => f64::from(f32::from_bits((x as u32) << 16)),
    };
    if !to.float() {
        let value = round(value, rounding?);
        let (low, high) = limits(to);
        let value = if value.is_nan() { 0 } else { value.clamp(low as f64, high as f64) as i128 };
        return Some(cut(value as u64, to));
    }
    let value = if whole { round(value, rounding?) } else { value };
    let nearest = whole || matches!(rounding, None | Some(Round::Nearest));
    let value = if saturate { if value.is_nan() { 0.0 } else { value.clamp(0.0, 1.0) } } else { value };
    match to {
        _ if !nearest => None,
        Type::F32 if i.ftz => Some(bits(flushed(value as f32))),
        Type::F32 => Some(bits(value as f32)),
        Type::F64 => Some(value.to_bits()),
        Type::F16 => Some(u64::from(f32_to_half(value as f32))),
        _ => Some(u64::from(f32_to_bf16(value as f32))),
    }
}

/// The result of an instruction of one result; none where its types are not emulated.
pub(super) fn result<'r>(i: &Instruction, arg: impl Fn(usize) -> &'r Lanes) -> Option<Lanes> {
    let ty = i.ty;
    let whole = |f: &dyn Fn(i64, i64) -> i64| -> Lanes {
        each2(arg(0), arg(1), |a, b| cut(f(extended(a, ty), extended(b, ty)) as u64, ty))
    };
    Some(match i.op {
        Op::Mov => *arg(0),
        Op::Add if ty.float() => return float2(i, arg(0), arg(1), |a, b| a + b, |a, b| a + b),
        Op::Sub if ty.float() => return float2(i, arg(0), arg(1), |a, b| a - b, |a, b| a - b),
        Op::MulLow if ty.float() => return float2(i, arg(0), arg(1), |a, b| a * b, |a, b| a * b),
        Op::Div if ty.float() => return float2(i, arg(0), arg(1), |a, b| a / b, |a, b| a / b),
        Op::Min if ty.float() => return float2(i, arg(0), arg(1), least, f64::min),
        Op::Max if ty.float() => return float2(i, arg(0), arg(1), |a, b| -least(-a, -b), f64::max),
        Op::Abs if ty.float() => return float1(i, arg(0), f32::abs, f64::abs),
        Op::Neg if ty.float() => return float1(i, arg(0), |x| -x, |x| -x),
        Op::Add => each2(arg(0), arg(1), |a, b| cut(a.wrapping_add(b), ty)),
        Op::Sub => each2(arg(0), arg(1), |a, b| cut(a.wrapping_sub(b), ty)),
        Op::MulLow => each2(arg(0), arg(1), |a, b| cut(a.wrapping_mul(b), ty)),
        Op::MulHigh => each2(arg(0), arg(1), |a, b| {
            let product = match ty {
                Type::U64 => i128::from(a).wrapping_mul(i128::from(b)),
                _ => i128::from(extended(a, ty)).wrapping_mul(i128::from(extended(b, ty))),
            };
            cut((product >> (8 * ty.bytes())) as u64, ty)
        }),
        Op::MulWide => each2(arg(0), arg(1), |a, b| {
            let product = extended(a, ty).wrapping_mul(extended(b, ty)) as u64;
            if ty.bytes() == 2 { product & 0xffff_ffff } else { product }
        }),
        Op::Mad => each3(arg(0), arg(1), arg(2), |a, b, c| cut(a.wrapping_mul(b).wrapping_add(c), ty)),
        Op::MadWide => each3(arg(0), arg(1), arg(2), |a, b, c| {
            let sum = (extended(a, ty).wrapping_mul(extended(b, ty)) as u64).wrapping_add(c);
            if ty.bytes() == 2 { sum & 0xffff_ffff } else { sum }
        }),
        Op::Fma(rounding) => match (ty, rounding) {
            (Type::F32, Round::Nearest) => each3(arg(0), arg(1), arg(2), |a, b, c| {
                let (a, b, c) = (f32_of(a), f32_of(b), f32_of(c));
                bits(if i.ftz { flushed(flushed(a).mul_add(flushed(b), flushed(c))) } else { a.mul_add(b, c) })
            }),
            (Type::F32, Round::Down) => {
                each3(arg(0), arg(1), arg(2), |a, b, c| bits(fma_down(f32_of(a), f32_of(b), f32_of(c))))
            }
            (Type::F64, Round::Nearest) => each3(arg(0), arg(1), arg(2), |a, b, c| {
                f64::from_bits(a).mul_add(f64::from_bits(b), f64::from_bits(c)).to_bits()
            }),
            _ => return None,
        },
        // A division by zero gives all ones, as the hardware does.
        Op::Div if ty.signed() => whole(&|a, b| if b == 0 { -1 } else { a.wrapping_div(b) }),
        Op::Rem if ty.signed() => whole(&|a, b| if b == 0 { a } else { a.wrapping_rem(b) }),
        Op::Div => each2(arg(0), arg(1), |a, b| cut(a.checked_div(b).unwrap_or(u64::MAX), ty)),
        Op::Rem => each2(arg(0), arg(1), |a, b| cut(a.checked_rem(b).unwrap_or(a), ty)),
        Op::Min if ty.signed() => whole(&|a, b| a.min(b)),
        Op::Max if ty.signed() => whole(&|a, b| a.max(b)),
        Op::Min => each2(arg(0), arg(1), |a, b| a.min(b)),
        Op::Max => each2(arg(0), arg(1), |a, b| a.max(b)),
        Op::Abs => each1(arg(0), |a| cut(extended(a, ty).wrapping_abs() as u64, ty)),
        Op::Neg => each1(arg(0), |a| cut(a.wrapping_neg(), ty)),
        Op::And => each2(arg(0), arg(1), |a, b| a & b),
        Op::Or => each2(arg(0), arg(1), |a, b| a | b),
        Op::Xor => each2(arg(0), arg(1), |a, b| a ^ b),
        Op::Not => each1(arg(0), |a| cut(!a, ty)),
        Op::Shl => {
            each2(arg(0), arg(1), |a, n| if n as u32 as usize >= 8 * ty.bytes() { 0 } else { cut(a << (n as u32), ty) })
        }
        Op::Shr => each2(arg(0), arg(1), |a, n| {
            let n = (n as u32).min(8 * ty.bytes() as u32);
            match ty.signed() {
                true => cut((extended(a, ty) >> n.min(63)) as u64, ty),
                false => a.checked_shr(n).unwrap_or(0),
            }
        }),
        Op::Funnel { left, wrap } => each3(arg(0), arg(1), arg(2), |low, high, n| {
            let (both, n) = (high << 32 | low, if wrap { n & 31 } else { (n as u32).min(32).into() });
            if left { (both << n) >> 32 } else { both >> n & 0xffff_ffff }
        }),
        Op::Bfi => {
            let (a, b, at, len) = (arg(0), arg(1), arg(2), arg(3));
            std::array::from_fn(|l| {
                let (at, len) = (at[l] & 0xff, len[l] & 0xff);
                let mask = if len >= 64 { u64::MAX } else { (1u64 << len) - 1 };
                let (mask, a) = (mask.checked_shl(at as u32).unwrap_or(0), a[l].checked_shl(at as u32).unwrap_or(0));
                cut(b[l] & !mask | a & mask, ty)
            })
        }
        Op::Bfe => each3(arg(0), arg(1), arg(2), |a, at, len| {
            let (at, len, size) = (at & 0xff, len & 0xff, 8 * ty.bytes() as u64);
            if len == 0 || at >= size {
                return 0;
            }
            let len = len.min(size - at);
            let field = if len >= 64 { a >> at } else { a >> at & ((1 << len) - 1) };
            match ty.signed() && len < 64 && field >> (len - 1) & 1 == 1 {
                true => cut(field | u64::MAX << len, ty),
                false => field,
            }
        }),
        Op::Popc => each1(arg(0), |a| u64::from(cut(a, ty).count_ones())),
        Op::Clz => each1(arg(0), |a| u64::from(cut(a, ty).leading_zeros()) - (64 - 8 * ty.bytes() as u64)),
        Op::Prmt => each3(arg(0), arg(1), arg(2), |a, b, s| u64::from(prmt(a as u32, b as u32, s as u32))),
        Op::Dp4a => {
            let signed = ty.signed();
            each3(arg(0), arg(1), arg(2), |a, b, c| u64::from(dp4a(a as u32, b as u32, c as u32, signed)))
        }
        Op::Selp => each3(arg(0), arg(1), arg(2), |a, b, p| if p & 1 == 1 { a } else { b }),
        Op::Setp(op) => each2(arg(0), arg(1), |a, b| {
            u64::from(compare(
                op,
                match ty {
                    Type::F32 if i.ftz => flushed(f32_of(a)).partial_cmp(&flushed(f32_of(b))),
                    Type::F32 => f32_of(a).partial_cmp(&f32_of(b)),
                    Type::F64 => f64::from_bits(a).partial_cmp(&f64::from_bits(b)),
                    _ if ty.signed() => Some(extended(a, ty).cmp(&extended(b, ty))),
                    _ => Some(cut(a, ty).cmp(&cut(b, ty))),
                },
            ))
        }),
        Op::Cvt(rounding, saturate, whole) => {
            let a = arg(0);
            let mut out = [0; LANES];
            for (out, &a) in out.iter_mut().zip(a) {
                *out = convert(i, a, rounding, saturate, whole)?;
            }
            out
        }
        Op::Sqrt => return float1(i, arg(0), f32::sqrt, f64::sqrt),
        Op::Rcp => return float1(i, arg(0), |x| 1.0 / x, |x| 1.0 / x),
        // The hardware's are off by a unit or two in the last place; these are as near as f32 can be.
        Op::Rsqrt => return float1(i, arg(0), |x| (1.0 / f64::from(x).sqrt()) as f32, |x| 1.0 / x.sqrt()),
        Op::Ex2 => return float1(i, arg(0), |x| f64::from(x).exp2() as f32, f64::exp2),
        Op::Lg2 => return float1(i, arg(0), |x| f64::from(x).log2() as f32, f64::log2),
        Op::Tanh => return float1(i, arg(0), |x| f64::from(x).tanh() as f32, f64::tanh),
        _ => return None,
    })
}
