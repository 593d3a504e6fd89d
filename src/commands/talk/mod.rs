//! What `run` and `chat` share: the flags of a conversation, the models behind it, and an answer on its way out.

mod answer;
mod reply;
mod session_file;
mod spec_args;

pub use reply::{Given, Reply, Room, Totals, tell_dropped};

use super::grammar_args::GrammarArgs;
use super::model_args::CardModelArgs;
use super::sample_args::SampleArgs;
use super::template_args::TemplateArgs;
use super::{input, resolve, tell, tell_notes};
use crate::chat::{Form, Message};
use crate::engine::{Engine, EngineOptions, Model, SeqId, Session};
use crate::generate::{Conversation, ConversationError, Generator, same_vocabulary};
use crate::gguf::Gguf;
use crate::registry::Entry;
use crate::sample::{Breakers, Sampler};
use crate::tokenizer::{Encode, Tokenizer};
use anyhow::bail;
use clap::Args;
use session_file::Owner;
use spec_args::SpecArgs;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// The flags of a conversation.
#[derive(Args, Debug)]
pub struct TalkArgs {
    /// A GGUF file, the first part of a split set, or an alias of the catalogue [default: the catalogue's default]
    #[arg(value_name = "MODEL", conflicts_with = "model")]
    positional: Option<String>,

    /// The same, in llama.cpp's way
    #[arg(short = 'm', long, value_name = "MODEL")]
    model: Option<String>,

    /// Tokens of an answer; -1 or -2 until the model is done or the context full
    #[arg(
        short = 'n',
        long,
        visible_alias = "predict",
        value_name = "N",
        default_value_t = -1,
        value_parser = clap::value_parser!(i64).range(-2..),
        allow_negative_numbers = true
    )]
    n_predict: i64,

    /// What the model is told to be before anything is said (-sys)
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true, conflicts_with = "system_prompt_file")]
    system_prompt: Option<String>,

    /// Read the system prompt from a file (-sysf)
    #[arg(long, value_name = "FILE")]
    system_prompt_file: Option<PathBuf>,

    /// Stop where the answer contains this text; may be given more than once
    #[arg(short = 'r', long, value_name = "TEXT", allow_hyphen_values = true)]
    reverse_prompt: Vec<String>,

    /// Turn \n, \t, \", \\ and \xHH of -p, -r and -sys into characters (the default, as in llama.cpp)
    #[arg(short = 'e', long, overrides_with = "no_escape")]
    escape: bool,

    /// Take backslashes as they are, as those of files and pipes always are
    #[arg(long, overrides_with = "escape")]
    no_escape: bool,

    /// When the context is full, drop the oldest turns and go on; the system prompt stays
    #[arg(long, overrides_with = "no_context_shift")]
    context_shift: bool,

    /// Stop when the context is full (the default)
    #[arg(long, overrides_with = "context_shift")]
    no_context_shift: bool,

    /// Go on with the conversation in this file, and write it there in the end, with all that was computed
    #[arg(long, alias = "prompt-cache", value_name = "FILE")]
    session: Option<PathBuf>,

    /// End each answer with a line of statistics
    #[arg(long, visible_alias = "show-timings")]
    pub stats: bool,

    #[command(flatten)]
    template: TemplateArgs,

    #[command(flatten)]
    sampling: SampleArgs,

    #[command(flatten)]
    grammar: GrammarArgs,

    #[command(flatten)]
    spec: SpecArgs,

    #[command(flatten)]
    pub computing: CardModelArgs,
}

/// The files behind a conversation, open.
pub struct Files {
    gguf: Gguf,
    entry: Option<Entry>,
    draft: Option<Gguf>,
    /// When the work began.
    pub start: Instant,
}

/// The models behind a conversation.
pub struct Models<'f> {
    /// The one that answers.
    pub model: Model<'f>,
    /// Its vocabulary.
    pub tokenizer: Tokenizer,
    gguf: &'f Gguf,
    entry: Option<&'f Entry>,
    draft: Option<Model<'f>>,
}

/// The engines of the models.
pub struct Engines<'m> {
    main: Engine<'m>,
    draft: Option<Engine<'m>>,
}

/// A session with what draws from it.
pub struct Talk<'e, 'm> {
    /// The cache.
    pub session: Session<'e, 'm>,
    /// What draws.
    pub generator: Generator<'e>,
}

impl TalkArgs {
    /// Finds and opens the models.
    ///
    /// # Errors
    /// One that is not there or is no GGUF file.
    pub fn open(&self) -> anyhow::Result<Files> {
        let resolved = resolve::model(self.positional.as_deref().or(self.model.as_deref()))?;
        let draft = self.spec.model_draft.as_deref().map(|name| resolve::model(Some(name))).transpose()?;
        // From here on, as neither typing nor a download says anything about the model.
        let start = Instant::now();
        let gguf = self.computing.open(&resolved.path)?;
        let draft = draft.map(|d| self.computing.open(&d.path)).transpose()?;
        Ok(Files { gguf, entry: resolved.entry, draft, start })
    }

    /// Tokens that an answer may have.
    pub fn limit(&self) -> usize {
        usize::try_from(self.n_predict).unwrap_or(usize::MAX)
    }

    /// Whether the oldest turns may be dropped.
    pub fn shifts(&self) -> bool {
        self.context_shift
    }

    /// A text of the command line with its escapes turned into characters.
    pub fn unescaped(&self, text: &str) -> String {
        if self.no_escape { text.to_owned() } else { input::unescape(text) }
    }

    /// Texts that end an answer.
    pub fn stops(&self) -> Vec<String> {
        self.reverse_prompt.iter().map(|text| self.unescaped(text)).collect()
    }

    /// The system prompt, if one was given.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn system(&self) -> anyhow::Result<Option<String>> {
        Ok(match (&self.system_prompt, &self.system_prompt_file) {
            (Some(text), _) => Some(self.unescaped(text)),
            (None, Some(file)) => Some(input::bare(&input::file(file)?).to_owned()),
            (None, None) => None,
        })
    }

    /// What draws tokens: by the flags, what the catalogue recommends, the defaults; under the grammar, if there is one.
    ///
    /// # Errors
    /// A grammar that is none.
    pub fn sampler(&self, models: &Models) -> anyhow::Result<Sampler> {
        let banned = if self.sampling.ignore_eos { models.tokenizer.eog().collect() } else { Vec::new() };
        let recommended = models.entry.map(|e| e.sampling.clone()).unwrap_or_default();
        let options = self.sampling.options(&recommended, banned)?;
        if self.computing.verbose {
            let list: Vec<String> = options.list().into_iter().map(|(name, value)| format!("{name} {value}")).collect();
            tell(list.join(", "));
        }
        let mut sampler = Sampler::new(options);
        sampler.set_grammar(self.grammar.grammar(&models.tokenizer)?);
        equip(&mut sampler, &models.tokenizer);
        Ok(sampler)
    }

    /// The form of the prompts, with what should be told about it; none where nothing fits.
    ///
    /// # Errors
    /// A form that does not exist or is broken.
    pub fn form(&self, models: &Models) -> anyhow::Result<Option<Form>> {
        self.template.form(models.gguf.metadata(), &models.tokenizer, false)
    }

    /// A conversation in `form`, with the system prompt.
    ///
    /// # Errors
    /// A system prompt that cannot be read, variables that are no JSON.
    pub fn conversation<'t>(&self, form: Form, tokenizer: &'t Tokenizer) -> anyhow::Result<Conversation<'t>> {
        let mut conversation = Conversation::new(tokenizer, form);
        conversation.variables = self.template.variables()?;
        conversation.now = self.template.now()?;
        if let Some(system) = self.system()? {
            conversation.set_system(&system);
        }
        Ok(conversation)
    }

    /// How the engine is set up for at most `most` tokens.
    ///
    /// # Errors
    /// A context that memory cannot hold.
    pub fn engine_options(&self, models: &Models, most: usize) -> anyhow::Result<EngineOptions> {
        let context = models.entry.and_then(|e| e.context).map(|c| c as usize);
        self.computing.engine_options(&models.model, most, context)
    }

    /// A session, and `sampler` to draw from it.
    pub fn talk<'e, 'm>(&self, engines: &'e mut Engines<'m>, sampler: Sampler) -> Talk<'e, 'm> {
        let drafter = self.spec.drafter(engines.draft.as_mut());
        Talk {
            session: Session::new(&mut engines.main, SeqId(0)),
            generator: Generator::new(sampler, drafter, self.spec.most()),
        }
    }

    /// The file of the conversation.
    pub fn session_file(&self) -> Option<&Path> {
        self.session.as_deref()
    }

    /// Goes on with what --session holds, if that file is there; whether it is. A system prompt of the command line takes
    /// the place of the one in the file.
    ///
    /// # Errors
    /// As [`Talk::restore`], a system prompt that cannot be read.
    pub fn resume(
        &self,
        talk: &mut Talk,
        models: &Models,
        mut conversation: Option<&mut Conversation>,
    ) -> anyhow::Result<bool> {
        let Some(path) = self.session_file() else { return Ok(false) };
        let found = talk.restore(path, models, conversation.as_deref_mut())?;
        if let (true, Some(conversation), Some(system)) = (found, conversation, self.system()?) {
            conversation.set_system(&system);
        }
        Ok(found)
    }
}

impl Files {
    /// Reads the headers.
    ///
    /// # Errors
    /// Files that cannot be run, a draft model of another vocabulary.
    pub fn models(&self) -> anyhow::Result<Models<'_>> {
        let model = Model::load(&self.gguf)?;
        let tokenizer = Tokenizer::from_metadata(self.gguf.metadata())?;
        tell_notes(model.warnings.iter().chain(tokenizer.notes()));
        let draft = match &self.draft {
            None => None,
            Some(gguf) => {
                let draft = Model::load(gguf)?;
                if let Err(what) = same_vocabulary(&tokenizer, &Tokenizer::from_metadata(gguf.metadata())?) {
                    bail!("{}: {what}; a draft model needs the same vocabulary", gguf.path().display());
                }
                Some(draft)
            }
        };
        Ok(Models { model, tokenizer, gguf: &self.gguf, entry: self.entry.as_ref(), draft })
    }
}

impl Models<'_> {
    /// The file of the model, for people.
    pub fn file(&self) -> String {
        self.gguf.path().display().to_string()
    }

    /// Its metadata.
    pub fn metadata(&self) -> &crate::gguf::Metadata {
        self.gguf.metadata()
    }

    /// Engines with caches and threads; a card, if there is one, takes its share of the model that answers.
    ///
    /// # Errors
    /// A card that fails.
    pub fn engines(&self, options: &EngineOptions, computing: &CardModelArgs) -> anyhow::Result<Engines<'_>> {
        Ok(Engines {
            main: computing.engine(&self.model, options)?,
            draft: self.draft.as_ref().map(|draft| Engine::new(draft, options)),
        })
    }

    fn owner(&self) -> Owner<'_> {
        Owner { name: &self.model.spec.name, fingerprint: self.gguf.fingerprint() }
    }
}

impl Talk<'_, '_> {
    /// Goes on with the conversation and the cache in `path`, if that file is there; whether it is.
    ///
    /// # Errors
    /// A file that is damaged or of another model.
    pub fn restore(
        &mut self,
        path: &Path,
        models: &Models,
        conversation: Option<&mut Conversation>,
    ) -> anyhow::Result<bool> {
        if !path.exists() {
            return Ok(false);
        }
        let restored = session_file::restore(path, &models.owner(), &mut self.session)?;
        if let Some(why) = restored.recompute {
            tell(format_args!("note: {}: {why}; the conversation is computed again", path.display()));
        }
        if let Some(conversation) = conversation {
            conversation.resume(restored.messages, self.session.tokens());
        }
        Ok(true)
    }

    /// Writes the conversation and the cache to `path`.
    ///
    /// # Errors
    /// A file that cannot be written; the one of before stays.
    pub fn save(&self, path: &Path, models: &Models, conversation: Option<&Conversation>) -> anyhow::Result<()> {
        let messages = conversation.map(Conversation::messages).unwrap_or_default();
        session_file::save(path, &models.owner(), messages, &self.session)
    }
}

/// Gives the sampler what its options need of the vocabulary.
pub fn equip(sampler: &mut Sampler, tokenizer: &Tokenizer) {
    let options = sampler.options();
    if options.dry_multiplier != 0.0 {
        let pieces = (0..tokenizer.n_vocab() as u32).map(|id| (id, tokenizer.piece(id).unwrap_or_default()));
        // What follows a token has no space before it, which some vocabularies put before every text.
        let plain = |text: &str| tokenizer.encode(text, Encode { bos: false, special: false });
        let before = plain("\n");
        let encode = |text: &str| {
            let all = plain(&format!("\n{text}"));
            all.strip_prefix(before.as_slice()).map_or_else(|| plain(text), <[u32]>::to_vec)
        };
        let breakers = Breakers::new(&options.dry_breakers, pieces, encode);
        sampler.set_breakers(breakers);
    }
}

/// What is said of a conversation that does not fit.
pub fn too_long(error: ConversationError, models: &Models) -> anyhow::Error {
    match error {
        ConversationError::Full { needed, n_ctx } => anyhow::anyhow!(
            "prompt: found {needed} tokens, expected at most the context's {n_ctx}; give a larger --ctx-size (the model was trained for {}) or a shorter prompt",
            models.model.spec.context
        ),
        other => anyhow::Error::from(other).context(models.file()),
    }
}

/// A message of the user.
pub fn said(text: &str) -> Message {
    Message::new("user", text)
}
