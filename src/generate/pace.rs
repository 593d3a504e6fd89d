//! How many tokens to guess, and whether at all: decided by what steps have taken on this machine, with this model and
//! this text. A guess that fails costs its share of a batch, and that share is small for a dense model whose weights are
//! read once for the batch, and large for a mixture of experts, where every token brings experts of its own.

use std::time::Instant;

/// Steps without guesses that are timed before the first guess.
const PLAIN_FIRST: usize = 3;
/// Guessing steps after which it is first judged, and the weight of the past afterwards.
const TRIAL: usize = 6;
/// Steps without guesses after a loss, doubled with each further one.
const PAUSE: usize = 32;
/// A pause is never longer.
const LONGEST_PAUSE: usize = 1024;

/// Seconds and tokens of the latest steps, older ones counting less and less.
#[derive(Clone, Copy, Default)]
struct Recent {
    steps: f64,
    seconds: f64,
    tokens: f64,
}

impl Recent {
    fn add(&mut self, seconds: f64, tokens: usize) {
        let keep = 1.0 - 1.0 / (2 * TRIAL) as f64;
        self.steps = self.steps * keep + 1.0;
        self.seconds = self.seconds * keep + seconds;
        self.tokens = self.tokens * keep + tokens as f64;
    }

    fn seconds_per_token(&self) -> f64 {
        self.seconds / self.tokens.max(1.0)
    }
}

/// The pace of a generator.
pub(super) struct Pace {
    most: usize,
    /// Guesses of the next step that guesses.
    guesses: usize,
    plain: Recent,
    guessing: Recent,
    /// Steps that must not guess, from now on.
    rest: usize,
    pause: usize,
    start: Instant,
}

impl Pace {
    /// For at most `most` guesses a step.
    pub fn new(most: usize) -> Pace {
        Pace {
            most,
            guesses: most.min(4),
            plain: Recent::default(),
            guessing: Recent::default(),
            rest: PLAIN_FIRST,
            pause: PAUSE,
            start: Instant::now(),
        }
    }

    /// A step begins.
    pub fn start(&mut self) {
        self.start = Instant::now();
    }

    /// The most that the next step may guess.
    pub fn guesses(&self) -> usize {
        if self.rest > 0 { 0 } else { self.guesses }
    }

    /// A step with so many guesses, so many of them right, is done; whether guessing is switched off now.
    pub fn step(&mut self, guesses: usize, confirmed: usize) -> bool {
        self.took(self.start.elapsed().as_secs_f64(), guesses, confirmed)
    }

    fn took(&mut self, seconds: f64, guesses: usize, confirmed: usize) -> bool {
        if guesses == 0 {
            self.plain.add(seconds, 1);
            self.rest = self.rest.saturating_sub(1);
            return false;
        }
        self.guessing.add(seconds, confirmed + 1);
        // As far ahead as the text lets: further when all were right, nearer when most were wrong.
        if confirmed == guesses {
            self.guesses = (self.guesses * 2).clamp(1, self.most);
        } else if confirmed * 2 < guesses {
            self.guesses = (self.guesses / 2).max(1);
        }
        let loses = self.guessing.seconds_per_token() > self.plain.seconds_per_token();
        // The weights of the past sum up to TRIAL after somewhat more than TRIAL steps.
        if self.guessing.steps < TRIAL as f64 * 0.75 {
            return false;
        }
        if loses {
            self.rest = self.pause;
            self.pause = (self.pause * 2).min(LONGEST_PAUSE);
            self.guessing = Recent::default();
            self.guesses = self.most.min(4);
        } else {
            self.pause = PAUSE;
        }
        loses
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs 400 steps in which a guess is right or not, and costs so much of a plain step; tells the steps that guessed
    /// and the longest guess.
    fn run(right: bool, cost: f64) -> (usize, usize) {
        let mut pace = Pace::new(15);
        let (mut guessed, mut longest) = (0, 0);
        for _ in 0..400 {
            let guesses = pace.guesses();
            guessed += usize::from(guesses > 0);
            longest = longest.max(guesses);
            pace.took(1.0 + cost * guesses as f64, guesses, if right { guesses } else { 0 });
        }
        (guessed, longest)
    }

    #[test]
    fn what_gains_goes_on_and_what_loses_ends() {
        let (guessed, longest) = run(true, 0.2);
        assert_eq!((guessed, longest), (400 - PLAIN_FIRST, 15), "all right and cheap");
        let (guessed, _) = run(true, 1.5);
        assert!(guessed < 60, "right, but dearer than single steps: {guessed} of 400 steps guess");
        let (guessed, longest) = run(false, 0.2);
        assert!(guessed < 60, "wrong: {guessed} of 400 steps guess");
        assert!(longest <= 4, "{longest}");
    }

    #[test]
    fn the_first_steps_are_timed_without_guesses() {
        let mut pace = Pace::new(8);
        for _ in 0..PLAIN_FIRST {
            assert_eq!(pace.guesses(), 0);
            pace.took(1.0, 0, 0);
        }
        assert_eq!(pace.guesses(), 4);
    }
}
