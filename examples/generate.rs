//! Generates text with the library: `cargo run --release --example generate -- MODEL.gguf "Once upon a time"`.

use ostro::engine::{Engine, EngineOptions, KvTypes, Model, SeqId, Session};
use ostro::gguf::Gguf;
use ostro::sample::{SampleOptions, Sampler};
use ostro::tokenizer::{Encode, Tokenizer};
use std::io::Write;
use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().collect();
    let [_, path, prompt] = args.as_slice() else { return Err("usage: generate MODEL.gguf PROMPT".into()) };

    // The file is mapped, not read: the weights stay where they are.
    let gguf = Gguf::open(Path::new(path))?;
    let model = Model::load(&gguf)?;
    let tokenizer = Tokenizer::from_metadata(gguf.metadata())?;

    let options = EngineOptions {
        n_ctx: 512,
        n_ubatch: 512,
        n_seqs: 1,
        threads: std::thread::available_parallelism()?.get(),
        kv: KvTypes::default(),
        cpu: ostro_kernels::Cpu::detect(),
    };
    let mut engine = Engine::new(&model, &options);
    let mut session = Session::new(&mut engine, SeqId(0));
    let mut sampler = Sampler::new(SampleOptions { seed: Some(1), ..SampleOptions::default() });

    let mut tokens = tokenizer.encode(prompt, Encode { bos: true, special: false });
    let mut text = tokenizer.stream();
    print!("{prompt}");
    for _ in 0..64 {
        let Some(logits) = session.feed(&tokens, |_| true)? else { break };
        let token = sampler.sample(logits)?;
        if tokenizer.is_eog(token) {
            break;
        }
        sampler.accept(token)?;
        print!("{}", text.push(token));
        std::io::stdout().flush()?;
        tokens = vec![token];
    }
    println!("{}", text.finish());
    Ok(())
}
