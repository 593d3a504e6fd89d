//! From other files to GGUF: what is to be written, which type each tensor becomes, and the work itself.
//!
//! A [`Source`] is a model as it lies somewhere: the metadata that the GGUF file shall have, and its tensors under
//! their GGUF names with the places of their bytes. Nothing of a tensor is in memory but the rows that are asked for.
//! [`plan()`] decides all that will be written before any work, [`Job`] does it.

mod encode;
mod error;
mod file_type;
pub mod from_gguf;
pub mod hf;
mod imatrix;
mod job;
mod journal;
pub mod mix;
mod plan;
pub mod source;

pub use error::Error;
pub use file_type::FileType;
pub use imatrix::{Entry, Imatrix};
pub use job::{Event, Job, Outcome, part};
pub use mix::Wishes;
pub use plan::{Plan, Planned, PlannedFile, Request, Split, plan};
pub use source::{Change, Piece, Source, SourceFile, SourceTensor};
