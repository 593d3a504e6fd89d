//! Updates of a row in place. The compiler makes vectors of these loops, so there is one form of each.

use super::simd::{Kernel, Simd, run};
use crate::Cpu;

/// `x += y`.
pub fn add_assign(cpu: Cpu, x: &mut [f32], y: &[f32]) {
    assert_eq!(x.len(), y.len());
    run(cpu, AddAssign(x, y));
}

/// `x *= factor`.
pub fn scale(cpu: Cpu, x: &mut [f32], factor: f32) {
    run(cpu, Scale(x, factor));
}

/// `x += weight * y`.
pub fn mul_add(cpu: Cpu, x: &mut [f32], weight: f32, y: &[f32]) {
    assert_eq!(x.len(), y.len());
    run(cpu, MulAdd(x, weight, y));
}

macro_rules! update {
    ($(struct $name:ident($($field:ty),*): |$this:ident| $body:expr;)*) => {$(
        struct $name<'a>($($field),*);
        impl<'a> $name<'a> {
            #[inline(always)]
            fn go(self) {
                let $this = self;
                $body
            }
        }
        impl Kernel for $name<'_> {
            type Out = ();
            fn scalar(self) {
                self.go();
            }
            #[inline(always)]
            fn simd<S: Simd>(self, _: S) {
                self.go();
            }
        }
    )*};
}

update! {
    struct AddAssign(&'a mut [f32], &'a [f32]): |this| for (x, y) in this.0.iter_mut().zip(this.1) {
        *x += y;
    };
    struct Scale(&'a mut [f32], f32): |this| for x in this.0.iter_mut() {
        *x *= this.1;
    };
    struct MulAdd(&'a mut [f32], f32, &'a [f32]): |this| for (x, y) in this.0.iter_mut().zip(this.2) {
        *x += this.1 * y;
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::float::check::{LENGTHS, check, floats};

    #[test]
    fn updates() {
        check("update", |cpu, fail| {
            for n in LENGTHS {
                let (x, y) = (floats(n, 9), floats(n, 10));
                let mut row = |what: &str, update: &dyn Fn(&mut [f32]), want: &dyn Fn(f32, f32) -> f32| {
                    let mut got = x.clone();
                    update(&mut got);
                    if !x.iter().zip(&y).zip(&got).all(|((&x, &y), &got)| got == want(x, y)) {
                        fail(format!("{what}, n {n}"));
                    }
                };
                row("add", &|x| add_assign(cpu, x, &y), &|x, y| x + y);
                row("scale", &|x| scale(cpu, x, 0.3), &|x, _| x * 0.3);
                row("mul_add", &|x| mul_add(cpu, x, 0.7, &y), &|x, y| x + 0.7 * y);
            }
        });
    }
}
