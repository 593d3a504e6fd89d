//! Flags that would make a plan fit. Each is planned with before it is told, so that none is told in vain.

use super::{Context, GpuLayers, Lane, Machine, Plan, Request, Sizes, plan};
use ostro_kernels::KvType;

/// What the user would type, and what follows from it.
struct Change {
    flags: String,
    context: Context,
    request: Request,
}

/// At most three changes of the flags of which each makes everything fit; none where nothing lacks. `sizes_at` is the model
/// with another cache.
pub fn advise(
    context: &Context,
    machine: &Machine,
    request: &Request,
    sizes_at: &dyn Fn(&Context) -> Sizes,
) -> Vec<String> {
    let planned = |c: &Context, r: &Request| plan(&sizes_at(c), c.n_ctx, machine, r);
    let wants_card = machine.vram.is_some() && request.gpu_layers != GpuLayers::Count(0);
    let fits = |p: &Plan| p.card_lacks == 0 && p.memory_lacks == 0 && (!wants_card || p.placement.uses(Lane::Gpu));
    let now = planned(context, request);
    if fits(&now) {
        return Vec::new();
    }
    let tried = |prefix: &str, context: &Context| -> Vec<String> {
        let sizes = sizes_at(context);
        let now = planned(context, request);
        let all = changes(context, request, &now, &sizes, machine, &fits);
        let good = all.into_iter().filter(|change| fits(&planned(&change.context, &change.request)));
        good.map(|change| format!("{prefix}{}", change.flags)).collect()
    };
    let mut found = tried("", context);
    let small = small_cache(context);
    if found.is_empty() && !is_small(context) {
        found = tried(&format!("{SMALL_CACHE} "), &small);
    }
    let files = usize::from(now.memory_lacks > 0);
    found.truncate(3 - files);
    if files > 0 {
        found.push("a file of fewer bits (ostro quantize --dry-run shows sizes)".to_owned());
    }
    found
}

const SMALL_CACHE: &str = "--cache-type-k q8_0 --cache-type-v q8_0";

/// The same with a cache of eight bits.
fn small_cache(context: &Context) -> Context {
    Context { k: KvType::Q8_0, v: KvType::Q8_0, ..*context }
}

fn is_small(context: &Context) -> bool {
    (context.k, context.v) == (KvType::Q8_0, KvType::Q8_0)
}

/// What could be changed, what costs the least speed first.
fn changes(
    context: &Context,
    request: &Request,
    now: &Plan,
    sizes: &Sizes,
    machine: &Machine,
    fits: &dyn Fn(&Plan) -> bool,
) -> Vec<Change> {
    let n = sizes.layers.len();
    let with = |flags: String, request: Request| Change { flags, context: *context, request };
    let first = |mut requests: Box<dyn Iterator<Item = (String, Request)> + '_>| {
        requests.find(|(_, r)| fits(&plan(sizes, context.n_ctx, machine, r))).map(|(flags, r)| with(flags, r))
    };
    let mut changes = Vec::new();
    if sizes.layers.iter().any(|(_, ffn)| ffn.table > 0) && !request.cpu_moe && now.card_lacks > 0 {
        let more = (request.n_cpu_moe + 1..=n).map(|n_cpu_moe| {
            let flags = if n_cpu_moe == n { "--cpu-moe".to_owned() } else { format!("--n-cpu-moe {n_cpu_moe}") };
            (flags, Request { n_cpu_moe, ..request.clone() })
        });
        changes.extend(first(Box::new(more)));
    }
    if !is_small(context) {
        let context = small_cache(context);
        changes.push(Change { flags: SMALL_CACHE.to_owned(), context, request: request.clone() });
    }
    if let Some(longest) = now.largest_context.of_both().map(|n| n / 256 * 256).filter(|&n| n > 0 && n < context.n_ctx)
    {
        changes.push(Change {
            flags: format!("--ctx-size {longest}"),
            context: Context { n_ctx: longest, ..*context },
            request: request.clone(),
        });
    }
    let layers = match request.gpu_layers {
        GpuLayers::Auto => 0,
        GpuLayers::All => n + 1,
        GpuLayers::Count(count) => count.min(n + 1),
    };
    let fewer = (1..layers).rev().map(|count| {
        (format!("--gpu-layers {count}"), Request { gpu_layers: GpuLayers::Count(count), ..request.clone() })
    });
    changes.extend(first(Box::new(fewer)));
    if request.gpu_layers != GpuLayers::Auto {
        changes.push(with("--gpu-layers auto".to_owned(), Request { gpu_layers: GpuLayers::Auto, ..request.clone() }));
    }
    if !now.placement.uses(Lane::Gpu) && machine.vram.is_some() {
        changes.push(Change {
            flags: "--fit-target 256 --ubatch-size 64".to_owned(),
            context: Context { n_ubatch: 64, ..*context },
            request: Request { margin: 256 << 20, ..request.clone() },
        });
    }
    changes
}
