//! A small model that guesses for a large one of the same vocabulary.

use super::Drafter;
use crate::engine::{self, Session};
use crate::tokenizer::Tokenizer;

/// Guesses the tokens that a second model holds for the likeliest.
pub struct DraftModel<'e, 'm> {
    session: Session<'e, 'm>,
    /// A guess less likely than this is the last.
    p_min: f32,
}

/// Rows of the head that a vocabulary may be padded with (as llama.cpp allows).
const PADDING: usize = 128;

/// Whether a token means the same to both models: `Err` says what differs.
///
/// # Errors
/// The sizes, or the first token that differs.
pub fn same_vocabulary(model: &Tokenizer, draft: &Tokenizer) -> Result<(), String> {
    let (n, m) = (model.n_vocab(), draft.n_vocab());
    if n.abs_diff(m) > PADDING {
        return Err(format!("found {m} tokens, expected the {n} of the model"));
    }
    let piece = |t: &Tokenizer, id: u32| t.piece(id).unwrap_or_default();
    match (0..n.min(m) as u32).find(|&id| piece(model, id) != piece(draft, id)) {
        None => Ok(()),
        Some(id) => {
            let show = |t| String::from_utf8_lossy(&piece(t, id)).escape_debug().to_string();
            Err(format!("found '{}' as token {id}, expected the model's '{}'", show(draft), show(model)))
        }
    }
}

impl<'e, 'm> DraftModel<'e, 'm> {
    /// Guesses with an empty `session` of the draft model, up to the first guess less likely than `p_min`.
    pub fn new(session: Session<'e, 'm>, p_min: f32) -> DraftModel<'e, 'm> {
        DraftModel { session, p_min }
    }
}

impl Drafter for DraftModel<'_, '_> {
    fn draft(&mut self, tokens: &[u32], most: usize, out: &mut Vec<u32>) -> Result<(), engine::Error> {
        let n_vocab = self.session.engine().model().spec.n_vocab;
        if tokens.len() + most > self.session.engine().n_ctx() || tokens.iter().any(|&t| t as usize >= n_vocab) {
            return Ok(());
        }
        // The last token is always fed, as its logits are what is wanted.
        let same = self.session.tokens().iter().zip(&tokens[..tokens.len() - 1]).take_while(|(a, b)| a == b).count();
        self.session.truncate(same);
        let mut next = self.session.feed(&tokens[same..], |_| true)?.and_then(likeliest);
        for left in (0..most).rev() {
            let Some((token, _)) = next.filter(|&(_, p)| p >= self.p_min) else { break };
            out.push(token);
            if left > 0 {
                next = self.session.feed(&[token], |_| true)?.and_then(likeliest);
            }
        }
        Ok(())
    }
}

/// The likeliest token and its probability.
fn likeliest(logits: &[f32]) -> Option<(u32, f32)> {
    let (token, &best) = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1))?;
    let total: f32 = logits.iter().map(|l| (l - best).exp()).sum();
    Some((token as u32, 1.0 / total))
}
