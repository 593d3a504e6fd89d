//! The flags of speculation, and the drafter that they name.

use crate::engine::{Engine, SeqId, Session};
use crate::generate::{DraftModel, Drafter, Ngram};
use clap::{Args, ValueEnum};

/// How tokens are guessed ahead.
#[derive(Args, Debug)]
#[command(next_help_heading = "Speculation")]
pub struct SpecArgs {
    /// Guess tokens ahead: what followed the same words before (ngram), or none
    #[arg(long, visible_alias = "spec-type", value_name = "HOW", conflicts_with = "model_draft")]
    spec: Option<Spec>,

    /// Guess with this smaller model of the same vocabulary (-md)
    #[arg(long, visible_alias = "spec-draft-model", value_name = "MODEL")]
    pub model_draft: Option<String>,

    /// Tokens guessed at most
    #[arg(long, visible_aliases = ["draft-max", "draft"], value_name = "N", default_value_t = 7)]
    spec_draft_n_max: usize,

    /// The draft model's guesses end before one less likely than this
    #[arg(long, visible_alias = "draft-p-min", value_name = "P", default_value_t = 0.6)]
    spec_draft_p_min: f32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Spec {
    None,
    #[value(alias = "ngram-simple")]
    Ngram,
}

/// Tokens that must have stood in the text before.
const NGRAM: usize = 2;

impl SpecArgs {
    /// The most tokens that are guessed in a step.
    pub fn most(&self) -> usize {
        self.spec_draft_n_max
    }

    /// What guesses; `engine` is the draft model's.
    pub fn drafter<'e>(&self, engine: Option<&'e mut Engine>) -> Option<Box<dyn Drafter + 'e>> {
        match (engine, self.spec) {
            (Some(engine), _) => Some(Box::new(DraftModel::new(Session::new(engine, SeqId(0)), self.spec_draft_p_min))),
            (None, Some(Spec::Ngram)) => Some(Box::new(Ngram::new(NGRAM))),
            (None, _) => None,
        }
    }
}
