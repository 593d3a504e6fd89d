//! What attention means: a row and a run of positions, one after the other.

use super::{Job, LOWEST};

/// Softmax of one row over the positions `from..to`: the values, weighted with e^(score - top) and added up in
/// `sums`; returns `top`, the greatest score, and the sum of the weights.
///
/// `buffer` holds `max(head_dim, v_dim)` floats.
pub(super) fn row(
    job: &Job,
    (kv_head, row): (usize, usize),
    (from, to): (usize, usize),
    sums: &mut [f32],
    buffer: &mut [f32],
) -> (f32, f32) {
    let a = &job.args;
    let query = job.query(kv_head, row);
    let (mut top, mut weights) = (LOWEST, 0.0);
    sums.fill(0.0);
    for pos in from..to {
        a.k_type.load_scalar(&job.keys(kv_head, pos)[..job.k_row], &mut buffer[..a.head_dim]);
        let dot: f64 = query.iter().zip(&*buffer).map(|(q, k)| f64::from(*q) * f64::from(*k)).sum();
        let mut score = dot as f32 * a.scale;
        if let Some(cap) = a.softcap {
            score = cap * (score / cap).tanh();
        }
        if score > top {
            let factor = (top - score).exp();
            weights *= factor;
            sums.iter_mut().for_each(|sum| *sum *= factor);
            top = score;
        }
        let weight = (score - top).exp();
        weights += weight;
        a.v_type.load_scalar(&job.values(kv_head, pos)[..a.v_type.row_bytes(a.v_dim)], &mut buffer[..a.v_dim]);
        sums.iter_mut().zip(&*buffer).for_each(|(sum, v)| *sum += weight * v);
    }
    (top, weights)
}
