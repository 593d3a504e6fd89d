//! The most likely next tokens of a text: `cargo run --release --example logits -- MODEL.gguf "The sky is"`.

use ostro::engine::{Engine, EngineOptions, KvTypes, Model, SeqId, Session};
use ostro::gguf::Gguf;
use ostro::tokenizer::{Encode, Tokenizer};
use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().collect();
    let [_, path, prompt] = args.as_slice() else { return Err("usage: logits MODEL.gguf PROMPT".into()) };
    let gguf = Gguf::open(Path::new(path))?;
    let model = Model::load(&gguf)?;
    let tokenizer = Tokenizer::from_metadata(gguf.metadata())?;
    let tokens = tokenizer.encode(prompt, Encode { bos: true, special: false });

    let options = EngineOptions {
        n_ctx: tokens.len(),
        n_ubatch: 512,
        n_seqs: 1,
        threads: std::thread::available_parallelism()?.get(),
        kv: KvTypes::default(),
        cpu: ostro_kernels::Cpu::detect(),
    };
    let mut engine = Engine::new(&model, &options);
    let mut session = Session::new(&mut engine, SeqId(0));
    // The logits of the last token, one for each token of the vocabulary.
    let logits = session.feed(&tokens, |_| true)?.ok_or("an empty prompt has no next token")?;

    let mut best: Vec<usize> = (0..logits.len()).collect();
    best.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
    let sum: f32 = logits.iter().map(|l| (l - logits[best[0]]).exp()).sum();
    for &token in &best[..10.min(best.len())] {
        let piece = tokenizer.decode(&[token as u32], true);
        let share = (logits[token] - logits[best[0]]).exp() / sum;
        println!("{:5.1} %  {:?}", share * 100.0, String::from_utf8_lossy(&piece));
    }
    Ok(())
}
