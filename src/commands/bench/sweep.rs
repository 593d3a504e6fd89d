//! Which tests there are: the product of all lists, in llama-bench's order.

use super::BenchArgs;
use super::list::all;
use crate::engine::KvTypes;
use crate::placement::GpuLayers;
use ostro_kernels::KvType;

/// One test.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Case {
    /// Index of the model.
    pub model: usize,
    /// Layers on a card.
    pub gpu_layers: GpuLayers,
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
    let cards = all(&args.gpu_layers);
    let tests: Vec<(usize, usize)> = all(&args.n_prompt)
        .into_iter()
        .map(|n| (n, 0))
        .chain(all(&args.n_gen).into_iter().map(|n| (0, n)))
        .chain(args.prompt_gen.iter().copied())
        .filter(|&(prompt, generated)| prompt + generated > 0)
        .collect();
    let lists = [cards.len(), batches.len(), ubatches.len(), keys.len(), values.len(), threads.len(), depths.len()];
    let n = [models, tests.len()]
        .iter()
        .chain(&lists)
        .try_fold(1usize, |n, &size| n.checked_mul(size))
        .filter(|&n| n <= MOST)?;

    let mut list = Vec::with_capacity(n);
    for (model, &gpu_layers) in (0..models).flat_map(|model| cards.iter().map(move |card| (model, card))) {
        for &n_batch in &batches {
            for &n_ubatch in &ubatches {
                for kv in pairs(&keys, &values) {
                    for &threads in &threads {
                        for &depth in &depths {
                            list.extend(tests.iter().map(|&(prompt, generated)| Case {
                                model,
                                gpu_layers,
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

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: BenchArgs,
    }

    fn sweep(line: &str, models: usize) -> Option<Vec<Case>> {
        cases(&Cli::try_parse_from(line.split(' ')).unwrap().args, models)
    }

    #[test]
    fn tests_have_their_names_and_order() {
        let rows = [
            ("bench m", "pp512 tg128"),
            ("bench m -p 0", "tg128"),
            ("bench m -n 0", "pp512"),
            ("bench m -p 0 -n 0", ""),
            ("bench m -p 8,2 -p 4 -n 1-3", "pp8 pp2 pp4 tg1 tg2 tg3"),
            ("bench m -p 0,8 -n 0 --prompt-gen 5,6 --prompt-gen 0,7 --prompt-gen 7,0", "pp8 pp5+tg6 tg7 pp7"),
            ("bench m -p 8 -n 4 -d 0,16", "pp8 tg4 pp8@d16 tg4@d16"),
            ("bench m -p 8 -n 0 --prompt-gen 1,2 -d 16", "pp8@d16 pp1+tg2@d16"),
        ];
        for (line, want) in rows {
            let names: Vec<_> = sweep(line, 1).unwrap().iter().map(|case| case.name().replace(' ', "")).collect();
            assert_eq!(names.join(" "), want, "{line}");
        }
    }

    /// The first changes most seldom, as each change costs most.
    #[test]
    fn lists_multiply_in_llama_benchs_order() {
        let line = "bench m -b 64,32 --ubatch-size 48,16 --cache-type-k f16,q8_0 --cache-type-v f32,f16 -t 1,2 -d 0,7 -p 5 -n 6";
        let list = sweep(line, 2).unwrap();
        assert_eq!(list.len(), 256);
        let key = |c: &Case| {
            let second = |is: bool| u32::from(is);
            [
                second(c.model == 1),
                second(c.n_batch == 32),
                second(c.n_ubatch == 16),
                second(c.kv.k == KvType::Q8_0),
                second(c.kv.v == KvType::F16),
                second(c.threads == 2),
                second(c.depth == 7),
                second(c.generated == 6),
            ]
        };
        let number = |c: &Case| key(c).iter().fold(0, |n, bit| 2 * n + bit);
        assert!(list.iter().map(number).eq(0..256));
        let ubatches: Vec<_> = list.iter().step_by(32).take(4).map(|c| (c.n_batch, c.n_ubatch)).collect();
        assert_eq!(ubatches, [(64, 48), (64, 16), (32, 32), (32, 16)], "no more than a batch at once");
    }

    #[test]
    fn layers_on_a_card_change_after_the_model() {
        let list = sweep("bench m --gpu-layers 0,all --gpu-layers 7 -p 5 -n 6", 2).unwrap();
        let found: Vec<_> = list.iter().map(|c| (c.model, c.gpu_layers, c.prompt)).collect();
        let layers = [GpuLayers::Count(0), GpuLayers::All, GpuLayers::Count(7)];
        let want: Vec<_> = (0..2).flat_map(|m| layers.into_iter().flat_map(move |l| [(m, l, 5), (m, l, 0)])).collect();
        assert_eq!(found, want);
    }

    #[test]
    fn a_sweep_has_an_end() {
        assert!(sweep("bench m -p 1-400 -n 0 -d 0-249", 1).is_some());
        assert!(sweep("bench m -p 1-400 -n 0 -d 0-250", 1).is_none());
    }
}
