//! Exponentials and logarithms with the same bits on every machine: those of the standard library are the system's own,
//! and a draw that is decided by the last bit would differ with it.

pub(super) fn exp(x: f64) -> f64 {
    libm::exp(x)
}

pub(super) fn ln(x: f64) -> f64 {
    libm::log(x)
}

pub(super) fn log2(x: f64) -> f64 {
    libm::log2(x)
}

pub(super) fn pow(x: f64, y: f64) -> f64 {
    libm::pow(x, y)
}
