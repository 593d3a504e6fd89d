//! A long conversation with a real model in a short context, and guesses that change nothing.

mod common;

use common::real_model;
use ostro::chat::{Form, Message};
use ostro::engine::{Engine, EngineOptions, KvTypes, Model, SeqId, Session};
use ostro::generate::{Conversation, Drafter, Error, Flow, Generator, Ngram};
use ostro::gguf::Gguf;
use ostro::sample::grammar::{Source, Vocabulary};
use ostro::sample::{SampleOptions, Sampler};
use ostro::tokenizer::{Encode, Tokenizer};
use ostro_kernels::Cpu;

const SMOLLM2: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";

fn options(n_ctx: usize) -> EngineOptions {
    EngineOptions { n_ctx, n_ubatch: 128, n_seqs: 1, threads: 2, kv: KvTypes::default(), cpu: Cpu::detect() }
}

/// 40 turns through 1,024 tokens: old turns go, what stays is not computed again, and the system prompt stays.
#[test]
fn forty_turns_go_through_a_short_context() {
    let Some(path) = real_model("smollm2", SMOLLM2) else { return };
    let gguf = Gguf::open(&path).unwrap();
    let model = Model::load(&gguf).unwrap();
    let tokenizer = Tokenizer::from_metadata(gguf.metadata()).unwrap();
    let mut engine = Engine::new(&model, &options(1024));
    let mut session = Session::new(&mut engine, SeqId(0));
    let sampler = Sampler::new(SampleOptions { seed: Some(5), ..SampleOptions::default() });
    let mut generator = Generator::new(sampler, None, 0);

    let (form, note) = Form::choose(gguf.metadata(), &tokenizer, None, false).unwrap();
    assert_eq!(note, None);
    let system = "You are the keeper of a lighthouse, and you always answer as one.";
    let mut conversation = Conversation::new(&tokenizer, form.expect("a chat template"));
    conversation.set_system(system);
    let beginning = tokenizer.encode_rendered(&format!("<|im_start|>system\n{system}<|im_end|>\n"), true, |_| None);

    let (mut dropped, mut in_answers) = (0, 0);
    for turn in 0..40 {
        let question = format!("This is question {turn}: what do you see from your tower today, and what will you do?");
        // What a turn adds: the end of the answer before, the question with its marks, and the answer's beginning.
        let added = tokenizer.encode(&question, Encode { bos: false, special: false }).len() + 16;
        conversation.push(Message::new("user", &question));
        let plan = conversation.plan(&mut session, true).unwrap();
        dropped += plan.dropped;
        if turn > 0 {
            assert!(plan.feed.len() <= added, "turn {turn}: {} tokens are computed, {added} are new", plan.feed.len());
        }
        generator.sampler.begin(&plan.feed);
        let mut drawn = Vec::new();
        let mut take = |token: u32, _held: usize| -> Result<Flow, Error> {
            if tokenizer.is_eog(token) {
                return Ok(Flow::Stop);
            }
            drawn.push(token);
            Ok(if drawn.len() == 60 { Flow::Stop } else { Flow::GoOn })
        };
        let mut end = generator.run(&mut session, &plan.feed, |_| true, &mut take).unwrap();
        while let ostro::generate::End::Full(token) = end {
            let mut rest = conversation.make_room(&mut session).unwrap().expect("a turn that can be dropped");
            assert!(rest.is_empty(), "turn {turn}: nothing is computed again in the middle of an answer");
            in_answers += 1;
            rest.push(token);
            end = generator.run(&mut session, &rest, |_| true, &mut take).unwrap();
        }
        let text = String::from_utf8_lossy(&tokenizer.decode(&drawn, false)).into_owned();
        conversation.answered(&drawn, &text);
        assert!(session.tokens().starts_with(&beginning), "turn {turn}: the system prompt is not where it was");
    }
    assert!(dropped + in_answers > 10, "{dropped} turns dropped before answers, {in_answers} within");
    assert!(in_answers > 0, "no answer ran into the end of the context");
    assert_eq!(conversation.system(), Some(system));
    assert!(conversation.messages().len() < 40, "{} messages are left", conversation.messages().len());
}

/// Right in part and wrong in part, on purpose.
struct Sometimes(usize);

impl Drafter for Sometimes {
    fn draft(&mut self, tokens: &[u32], most: usize, out: &mut Vec<u32>) -> Result<(), ostro::engine::Error> {
        Ngram::new(1).draft(tokens, most, out)?;
        self.0 += 1;
        if self.0.is_multiple_of(3)
            && let Some(last) = out.last_mut()
        {
            *last ^= 1;
        }
        Ok(())
    }
}

/// Tokens with guesses are those without, greedy and drawn, in every cache.
#[test]
fn guesses_change_no_token() {
    let Some(path) = real_model("smollm2", SMOLLM2) else { return };
    let gguf = Gguf::open(&path).unwrap();
    let model = Model::load(&gguf).unwrap();
    let tokenizer = Tokenizer::from_metadata(gguf.metadata()).unwrap();
    let text = "one two three four five six seven eight nine ten\n".repeat(3)
        + "The sea is wide. The sea is deep. The sea is cold. The sea";
    let prompt = tokenizer.encode(&text, Encode { bos: true, special: false });
    let say = |temp: f32, drafter: Option<Box<dyn Drafter>>| {
        let mut engine = Engine::new(&model, &options(512));
        let mut session = Session::new(&mut engine, SeqId(0));
        let sampler = Sampler::new(SampleOptions { seed: Some(11), temp, ..SampleOptions::default() });
        let mut generator = Generator::new(sampler, drafter, 15);
        generator.sampler.begin(&prompt);
        let mut drawn = Vec::new();
        let take = |token: u32, _: usize| -> Result<Flow, Error> {
            drawn.push(token);
            Ok(if drawn.len() == 150 { Flow::Stop } else { Flow::GoOn })
        };
        generator.run(&mut session, &prompt, |_| true, take).unwrap();
        (drawn, generator.drafted())
    };
    for temp in [0.0, 0.8] {
        let (plain, _) = say(temp, None);
        for wrong in [false, true] {
            let drafter: Box<dyn Drafter> = if wrong { Box::new(Sometimes(0)) } else { Box::new(Ngram::new(2)) };
            let (guessed, drafted) = say(temp, Some(drafter));
            assert_eq!(guessed, plain, "temperature {temp}, wrong on purpose: {wrong}");
            assert!(drafted.guessed > 0 && drafted.confirmed > 0, "{drafted:?}");
        }
    }
}

/// What the schema below says, once more as types.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "what some fields hold is checked by their types")]
struct Pet {
    name: String,
    age: u8,
    kind: Kind,
    tags: Vec<String>,
    home: Home,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Cat,
    Dog,
    Other,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "as above")]
struct Home {
    own: bool,
}

impl Pet {
    /// What types do not say.
    fn check(&self, text: &str) {
        assert!(self.name.chars().count() <= 8, "a long name: {text}");
        assert!(self.age <= 120, "an impossible age: {text}");
        assert!(self.tags.len() <= 1 && self.tags.iter().all(|t| t.chars().count() <= 4), "tags: {text}");
    }
}

/// Whatever the model draws at temperature 1, it is JSON that obeys the schema.
#[test]
fn two_hundred_answers_obey_their_schema() {
    let Some(path) = real_model("smollm2", SMOLLM2) else { return };
    let gguf = Gguf::open(&path).unwrap();
    let model = Model::load(&gguf).unwrap();
    let tokenizer = Tokenizer::from_metadata(gguf.metadata()).unwrap();
    let schema = serde_json::json!({
        "type": "object",
        "properties": {
            "name": { "type": "string", "maxLength": 8 },
            "age": { "type": "integer", "minimum": 0, "maximum": 120 },
            "kind": { "enum": ["cat", "dog", "other"] },
            "tags": { "type": "array", "items": { "type": "string", "maxLength": 4 }, "maxItems": 1 },
            "home": {
                "type": "object",
                "properties": { "own": { "type": "boolean" } },
                "required": ["own"],
                "additionalProperties": false,
            },
        },
        "required": ["name", "age", "kind", "tags", "home"],
        "additionalProperties": false,
    });
    let word = |id| if tokenizer.is_text(id) { tokenizer.piece(id) } else { None };
    let words = (0..tokenizer.n_vocab() as u32).map(word).collect();
    let vocabulary = Vocabulary::new(words, tokenizer.eog().collect()).unwrap();

    let mut engine = Engine::new(&model, &options(512));
    let mut session = Session::new(&mut engine, SeqId(0));
    let text = "<|im_start|>user\nDescribe a pet as JSON.<|im_end|>\n<|im_start|>assistant\n";
    let prompt = tokenizer.encode_rendered(text, true, |_| None);
    let mut different = std::collections::BTreeSet::new();
    for seed in 0..200 {
        let mut sampler = Sampler::new(SampleOptions { seed: Some(seed), temp: 1.0, ..SampleOptions::default() });
        sampler.set_grammar(Some(vocabulary.grammar(&Source::Schema(&schema)).unwrap()));
        let mut generator = Generator::new(sampler, None, 0);
        generator.sampler.begin(&prompt);
        let keep = session.tokens().len().min(prompt.len() - 1);
        session.truncate(keep);
        let mut drawn = Vec::new();
        let take = |token: u32, _: usize| -> Result<Flow, Error> {
            if tokenizer.is_eog(token) {
                return Ok(Flow::Stop);
            }
            drawn.push(token);
            Ok(Flow::GoOn)
        };
        let end = generator.run(&mut session, &prompt[keep..], |_| true, take).unwrap();
        assert_eq!(end, ostro::generate::End::Stopped, "seed {seed}: it did not end");
        let text = String::from_utf8(tokenizer.decode(&drawn, false)).unwrap();
        let pet: Pet = serde_json::from_str(&text).unwrap_or_else(|e| panic!("seed {seed}: {e}: {text}"));
        pet.check(&text);
        different.insert(text);
    }
    assert!(different.len() > 150, "{} different answers", different.len());
}
