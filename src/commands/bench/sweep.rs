//! Which tests there are: the product of all lists, in llama-bench's order.

use super::BenchArgs;
use super::list::all;
use crate::engine::KvTypes;
use ostro_kernels::KvType;

/// One test.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Case {
    /// Index of the model.
    pub model: usize,
    /// Tokens of a prompt that are given at once.
    pub n_batch: usize,
    /// Tokens that are computed at once.
    pub n_ubatch: usize,
    /// Types of the cache.
    pub kv: KvTypes,
    /// Threads.
    pub threads: usize,
    /// Tokens that the cache holds before.
    pub depth: usize,
    /// Tokens of the prompt.
    pub prompt: usize,
    /// Tokens that are generated.
    pub generated: usize,
}

impl Case {
    /// What llama-bench calls it: `pp512`, `tg128`, `pp512+tg128`, `tg128 @ d4096`.
    pub fn name(&self) -> String {
        let parts = [("pp", self.prompt), ("tg", self.generated)];
        let parts: Vec<_> = parts.iter().filter(|(_, n)| *n > 0).map(|(kind, n)| format!("{kind}{n}")).collect();
        let depth = if self.depth > 0 { format!(" @ d{}", self.depth) } else { String::new() };
        parts.join("+") + &depth
    }

    /// Tokens that are timed.
    pub fn tokens(&self) -> usize {
        self.prompt + self.generated
    }

    /// Positions that it needs.
    pub fn context(&self) -> usize {
        self.depth + self.tokens()
    }
}

/// Tests of a sweep at most: more would take weeks, and were not meant.
const MOST: usize = 100_000;

/// All tests; `None` when they are too many.
pub(super) fn cases(args: &BenchArgs, models: usize) -> Option<Vec<Case>> {
    let (batches, ubatches, threads) = (all(&args.batch_size), all(&args.ubatch_size), all(&args.threads));
    let (keys, values, depths) = (all(&args.cache_type_k), all(&args.cache_type_v), all(&args.n_depth));
    let tests: Vec<(usize, usize)> = all(&args.n_prompt)
        .into_iter()
        .map(|n| (n, 0))
        .chain(all(&args.n_gen).into_iter().map(|n| (0, n)))
        .chain(args.prompt_gen.iter().copied())
        .filter(|&(prompt, generated)| prompt + generated > 0)
        .collect();
    let sizes =
        [models, batches.len(), ubatches.len(), keys.len(), values.len(), threads.len(), depths.len(), tests.len()];
    let n = sizes.iter().try_fold(1usize, |n, &size| n.checked_mul(size)).filter(|&n| n <= MOST)?;

    let mut list = Vec::with_capacity(n);
    for model in 0..models {
        for &n_batch in &batches {
            for &n_ubatch in &ubatches {
                for kv in pairs(&keys, &values) {
                    for &threads in &threads {
                        for &depth in &depths {
                            list.extend(tests.iter().map(|&(prompt, generated)| Case {
                                model,
                                n_batch,
                                n_ubatch: n_ubatch.min(n_batch),
                                kv,
                                threads,
                                depth,
                                prompt,
                                generated,
                            }));
                        }
                    }
                }
            }
        }
    }
    Some(list)
}

fn pairs(keys: &[KvType], values: &[KvType]) -> impl Iterator<Item = KvTypes> {
    keys.iter().flat_map(|&k| values.iter().map(move |&v| KvTypes { k, v }))
}
