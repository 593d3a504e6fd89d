//! Ctrl-C as a question to the command, not a kill; the last of several ends the process.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

static COUNT: AtomicUsize = AtomicUsize::new(0);
static WAITING: AtomicBool = AtomicBool::new(false);

/// From here on the first Ctrl-C asks the command to end, and the second ends it.
pub fn catch() -> anyhow::Result<()> {
    set(2)
}

/// As [`catch`], for a command that itself leaves at the second; the third ends it.
pub fn catch_patiently() -> anyhow::Result<()> {
    set(3)
}

fn set(deadly: usize) -> anyhow::Result<()> {
    ctrlc::set_handler(move || {
        if COUNT.fetch_add(1, Ordering::Relaxed) + 1 >= deadly || WAITING.load(Ordering::Relaxed) {
            std::process::exit(130);
        }
    })?;
    Ok(())
}

/// Whether Ctrl-C was pressed.
pub fn interrupted() -> bool {
    COUNT.load(Ordering::Relaxed) > 0
}

/// How often Ctrl-C was pressed since this was asked last.
pub fn take() -> usize {
    COUNT.swap(0, Ordering::Relaxed)
}

/// Does something that cannot be asked to end, such as waiting for input: the first Ctrl-C ends the process.
pub fn waiting<T>(wait: impl FnOnce() -> T) -> T {
    WAITING.store(true, Ordering::Relaxed);
    let done = wait();
    WAITING.store(false, Ordering::Relaxed);
    done
}
