//! What one flag lists: `128,512`, and llama-bench's ranges `first-last`, `first-last+step`, `first-last*mult`.

use crate::commands::{model_args, offload_args};
use crate::model::computable;
use crate::placement::GpuLayers;
use ostro_kernels::{Cpu, DType, KvType};
use std::path::Path;

/// The values of one use of a flag, in the order in which they were written.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct List<T>(pub Vec<T>);

/// The values of all uses of a flag.
pub(super) fn all<T: Clone>(lists: &[List<T>]) -> Vec<T> {
    lists.iter().flat_map(|list| list.0.iter().cloned()).collect()
}

/// A range that was not meant to be so long would take days to measure.
const MOST: usize = 1000;

/// llama-bench's numbers end here; sums of a few of them cannot overflow.
const LARGEST: usize = i32::MAX as usize;

/// Counts of tokens, of which 0 is none.
pub(super) fn counts(text: &str) -> Result<List<usize>, String> {
    numbers(text, 0, LARGEST)
}

/// Sizes of batches.
pub(super) fn sizes(text: &str) -> Result<List<usize>, String> {
    numbers(text, 1, LARGEST)
}

/// Counts of threads; -1 is the physical cores.
pub(super) fn threads(text: &str) -> Result<List<usize>, String> {
    let cores = model_args::physical_cores().to_string();
    let text: Vec<_> = text.split(',').map(|item| if item == "-1" { &cores } else { item }).collect();
    numbers(&text.join(","), 1, 1024)
}

/// A prompt and what is generated after it.
pub(super) fn pair(text: &str) -> Result<(usize, usize), String> {
    let found = counts(text).ok().and_then(|list| <[usize; 2]>::try_from(list.0).ok());
    match found {
        Some([prompt, generated]) if prompt > 0 || generated > 0 => Ok((prompt, generated)),
        _ => Err("expected two counts of tokens, such as 512,128".into()),
    }
}

/// Layers on a card: llama-bench's -1 is all of them, ours is what fits.
pub(super) fn gpu_layers(text: &str) -> Result<List<GpuLayers>, String> {
    text.split(',').map(offload_args::gpu_layers).collect::<Result<_, _>>().map(List)
}

/// Types of a cache.
pub(super) fn kv_types(text: &str) -> Result<List<KvType>, String> {
    text.split(',').map(model_args::kv_type).collect::<Result<_, _>>().map(List)
}

/// Types of weights that can be computed with.
pub(super) fn dtypes(text: &str) -> Result<List<DType>, String> {
    let types = || DType::ALL.iter().copied().filter(|&dtype| computable(dtype));
    let find = |item: &str| types().find(|dtype| dtype.name().eq_ignore_ascii_case(item));
    named(text, find, || types().map(DType::name).collect())
}

/// Instruction sets of this machine.
pub(super) fn cpus(text: &str) -> Result<List<Cpu>, String> {
    let find = |item: &str| Cpu::by_name(&item.to_ascii_lowercase());
    named(text, find, || Cpu::all().into_iter().map(Cpu::name).collect())
}

/// Models: a file whose name has a comma is one.
pub(super) fn models(text: &str) -> Result<List<String>, String> {
    let one = Path::new(text).is_file();
    Ok(List(if one { vec![text.to_owned()] } else { text.split(',').map(str::to_owned).collect() }))
}

fn named<T>(
    text: &str,
    find: impl Fn(&str) -> Option<T>,
    names: impl Fn() -> Vec<&'static str>,
) -> Result<List<T>, String> {
    let find = |item: &str| find(item).ok_or_else(|| format!("expected some of {}", names().join(", ")));
    text.split(',').map(find).collect::<Result<_, _>>().map(List)
}

fn numbers(text: &str, least: usize, largest: usize) -> Result<List<usize>, String> {
    let wrong = || format!("expected numbers from {least} to {largest}, such as 1,2,4 or 1-4 or 1-9+2 or 1-8*2");
    let mut list = Vec::new();
    for item in text.split(',') {
        let range = Range::parse(item).filter(|r| r.first >= least && r.last <= largest).ok_or_else(wrong)?;
        let mut at = range.first;
        while at <= range.last {
            list.push(at);
            if list.len() > MOST {
                return Err(format!("expected at most {MOST} values"));
            }
            let next = if range.times { at.saturating_mul(range.step) } else { at.saturating_add(range.step) };
            if next <= at {
                return Err(format!("expected a range that grows, {item} stays at {at}"));
            }
            at = next;
        }
    }
    Ok(List(list))
}

/// `first-last*step`, or one of its shorter forms.
struct Range {
    first: usize,
    last: usize,
    step: usize,
    times: bool,
}

impl Range {
    fn parse(text: &str) -> Option<Range> {
        let number = |digits: &str| digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok()).flatten();
        let Some((first, rest)) = text.split_once('-') else {
            let one = number(text)?;
            return Some(Range { first: one, last: one, step: 1, times: false });
        };
        let (last, step, times) = match rest.find(['+', '*']) {
            Some(at) => (&rest[..at], number(&rest[at + 1..])?, rest[at..].starts_with('*')),
            None => (rest, 1, false),
        };
        let (first, last) = (number(first)?, number(last)?);
        (first <= last).then_some(Range { first, last, step, times })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_ranges() {
        let rows: &[(&str, &[usize])] = &[
            ("512", &[512]),
            ("0", &[0]),
            ("128,512", &[128, 512]),
            ("512,128,512", &[512, 128, 512]),
            ("1-4", &[1, 2, 3, 4]),
            ("3-3", &[3]),
            ("1-10+4", &[1, 5, 9]),
            ("8-64*2", &[8, 16, 32, 64]),
            ("8-63*2", &[8, 16, 32]),
            ("0-2,7,16-32*2", &[0, 1, 2, 7, 16, 32]),
            ("2147483647", &[2147483647]),
        ];
        for (text, want) in rows {
            assert_eq!(counts(text), Ok(List(want.to_vec())), "{text}");
        }
        let bad = ["", ",", "1,", "x", "-1", "+1", "4-1", "1-", "-", "1-4+", "1-4x2", "1-4*2*2", "2147483648", " 1"];
        let endless = ["1-4+0", "1-4*1", "0-4*2", "1-2000"];
        for text in bad.iter().chain(&endless) {
            assert!(counts(text).is_err(), "{text}");
        }
        assert!(sizes("0").is_err() && sizes("1").is_ok());
        assert!(threads("0").is_err() && threads("1025").is_err());
        assert_eq!(threads("-1,3"), Ok(List(vec![model_args::physical_cores(), 3])));
    }

    #[test]
    fn pairs_types_and_sets() {
        assert_eq!(pair("512,128"), Ok((512, 128)));
        assert_eq!(pair("0,128"), Ok((0, 128)));
        for text in ["0,0", "1", "1,2,3", "1,x", ""] {
            assert!(pair(text).is_err(), "{text}");
        }
        assert_eq!(dtypes("q4_k,F16"), Ok(List(vec![DType::Q4_K, DType::F16])));
        assert!(dtypes("Q8_K").is_err() && dtypes("").is_err());
        assert_eq!(cpus("scalar").map(|list| list.0.len()), Ok(1));
        let avx2 = Cpu::all().into_iter().rfind(|cpu| cpu.name().starts_with("avx2"));
        assert_eq!(cpus("AVX2").ok().map(|list| list.0), avx2.map(|cpu| vec![cpu]));
        assert!(cpus("sse2").unwrap_err().starts_with("expected some of scalar"));
        assert_eq!(kv_types("f16,Q8_0"), Ok(List(vec![KvType::F16, KvType::Q8_0])));
    }
}
