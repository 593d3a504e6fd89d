//! The team of threads that computes a step.
//!
//! A forward pass is hundreds of short parallel loops with nothing between them, so the threads are entered once and
//! then wait for the next loop in a spin: handing out a loop to hot threads takes well under a microsecond, where
//! waking a parked thread takes fifty. The spin gives way: first to other threads of the machine, then to sleep.
//!
//! A thread that comes late (asleep, or not scheduled because the machine is busy) finds the loop closed and skips it,
//! so nobody waits for a thread that has not begun. Tasks are handed out by a counter, so which thread computes a task
//! is not determined: a task must compute the same whoever runs it.

use std::any::Any;
use std::cell::UnsafeCell;
use std::hint::spin_loop;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::*};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// A fixed set of threads, the caller among them, that runs one parallel loop after the other.
pub struct Team {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// Set while a loop runs: a second one, nested or from another thread, would share the thread numbers.
    busy: AtomicBool,
}

impl Team {
    /// A team of `threads` threads: the caller of [`Team::run`] and `threads - 1` new ones.
    ///
    /// When the system refuses a thread, the team is smaller: [`Team::threads`] tells.
    pub fn new(threads: usize) -> Team {
        let threads = threads.clamp(1, MAX_THREADS);
        let cores = thread::available_parallelism().map_or(1, |n| n.get());
        let shared = Arc::new(Shared {
            state: Line(AtomicU64::new(0)),
            next: Line(AtomicUsize::new(0)),
            job: UnsafeCell::new(None),
            panic: Mutex::new(None),
            asleep: AtomicUsize::new(0),
            gate: Mutex::new(()),
            wake: Condvar::new(),
            spins: if threads > cores { 50 } else { 5_000 },
        });
        let spawn = |thread| {
            let shared = shared.clone();
            thread::Builder::new().name(format!("ostro-{thread}")).spawn(move || shared.work(thread))
        };
        let workers = (1..threads).map_while(|thread| spawn(thread).ok()).collect();
        Team { shared, workers, busy: AtomicBool::new(false) }
    }

    /// How many threads there are, the caller included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `task(0, _)` to `task(n - 1, _)`, each once, on all threads; returns when all are done.
    ///
    /// The second argument is the number of the thread, `0..threads()`, which no two tasks running at the same time
    /// share. Tasks start in ascending order. Nothing is allocated.
    ///
    /// # Panics
    /// When a task panics, with its payload, after all threads have left the loop. When a loop of this team is
    /// running already: loops neither nest nor overlap.
    pub fn run(&self, n: usize, task: &(dyn Fn(usize, usize) + Sync)) {
        assert!(!self.busy.swap(true, Acquire), "a loop of this team is running already");
        let idle = Idle(&self.busy);
        if n <= 1 || self.workers.is_empty() {
            return (0..n).for_each(|i| task(i, 0));
        }
        let shared = &*self.shared;
        // SAFETY: only the lifetime changes. The pointer is followed by threads that have entered the loop, and this
        // function does not return or unwind before the loop is closed and all of them have left it.
        let task: *const (dyn Fn(usize, usize) + Sync) = unsafe {
            std::mem::transmute::<&(dyn Fn(usize, usize) + Sync), &'static (dyn Fn(usize, usize) + Sync)>(task)
        };
        let job = Job { task, n };
        // SAFETY: the loop before this one is closed and everybody has left it, so nobody reads the cell; `busy` keeps
        // other callers out.
        unsafe { *shared.job.get() = Some(job) };
        shared.next.0.store(0, Relaxed);
        shared.open();
        let mine = catch_unwind(AssertUnwindSafe(|| shared.drain(job, 0)));
        if mine.is_err() {
            shared.next.0.store(n, Relaxed);
        }
        shared.close();
        let theirs = lock_if(&shared.panic, shared.state.0.load(Relaxed) & PANICKED != 0).and_then(|mut p| p.take());
        if let Some(payload) = mine.err().or(theirs) {
            drop(idle);
            resume_unwind(payload);
        }
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.state.0.fetch_or(STOP, SeqCst);
        self.shared.wake_all();
        for worker in self.workers.drain(..) {
            // A worker catches the panics of its tasks, so there is nothing to learn from the result.
            let _ = worker.join();
        }
    }
}

/// Clears `busy` however `run` is left.
struct Idle<'a>(&'a AtomicBool);

impl Drop for Idle<'_> {
    fn drop(&mut self) {
        self.0.store(false, Release);
    }
}

/// A cache line of its own, two because prefetchers fetch pairs.
#[repr(align(128))]
struct Line<T>(T);

#[derive(Clone, Copy)]
struct Job {
    task: *const (dyn Fn(usize, usize) + Sync),
    n: usize,
}

/// The state word: number of the loop (40 bits) | STOP | PANICKED | OPEN | threads inside besides the caller (16 bits).
const ENTERED: u64 = (1 << 16) - 1;
const OPEN: u64 = 1 << 16;
const PANICKED: u64 = 1 << 17;
const STOP: u64 = 1 << 18;
const LOOP: u64 = 1 << 24;
const MAX_THREADS: usize = 4096;

/// How long a thread waits for the next loop before it sleeps: longer than sampling a token takes.
const PATIENCE: Duration = Duration::from_millis(1);

struct Shared {
    state: Line<AtomicU64>,
    next: Line<AtomicUsize>,
    job: UnsafeCell<Option<Job>>,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    asleep: AtomicUsize,
    gate: Mutex<()>,
    wake: Condvar,
    /// Turns of the spin before a waiting thread yields: few when threads outnumber the cores.
    spins: u32,
}

// SAFETY: `job` is written by the caller of `run` while the loop is closed and nobody is inside, and read by threads
// that have entered an open loop; the state word orders the two. The task behind the pointer is `Sync`.
unsafe impl Sync for Shared {}
// SAFETY: as above; the pointer is only followed within a loop.
unsafe impl Send for Shared {}

impl Shared {
    /// Starts the next loop.
    fn open(&self) {
        let state = self.state.0.load(Relaxed);
        let number = (state / LOOP).wrapping_add(1);
        // SeqCst: either a thread about to sleep sees the new loop, or we see that thread asleep.
        self.state.0.store(number.wrapping_mul(LOOP) | OPEN, SeqCst);
        if self.asleep.load(SeqCst) > 0 {
            self.wake_all();
        }
    }

    /// Lets nobody in any more and waits until all who are in have left.
    fn close(&self) {
        let mut state = self.state.0.fetch_and(!OPEN, Acquire);
        let mut spins = 0;
        while state & ENTERED != 0 {
            if spins < self.spins {
                spins += 1;
                spin_loop();
            } else {
                thread::yield_now();
            }
            state = self.state.0.load(Acquire);
        }
    }

    fn drain(&self, job: Job, thread: usize) {
        // SAFETY: called between entering the loop and leaving it, while `run` keeps the task alive.
        let task = unsafe { &*job.task };
        loop {
            let i = self.next.0.fetch_add(1, Relaxed);
            if i >= job.n {
                break;
            }
            task(i, thread);
        }
    }

    fn wake_all(&self) {
        drop(lock(&self.gate));
        self.wake.notify_all();
    }

    /// The life of a worker: wait for a loop, enter it, help, leave.
    fn work(&self, thread: usize) {
        let mut seen = 0; // the number of the last loop this thread took note of
        loop {
            let state = self.await_loop(seen);
            if state & STOP != 0 {
                return;
            }
            seen = state / LOOP;
            if !self.enter(state) {
                continue;
            }
            // SAFETY: the loop is entered, so `run` neither returns nor writes the cell until we leave.
            let job = unsafe { *self.job.get() };
            let result = catch_unwind(AssertUnwindSafe(|| job.map(|job| (job, self.drain(job, thread)))));
            if let Err(payload) = result {
                self.next.0.store(job.map_or(0, |job| job.n), Relaxed);
                match &mut *lock(&self.panic) {
                    first @ None => *first = Some(payload),
                    Some(_) => std::mem::forget(payload), // its destructor could panic and strand the caller
                }
                self.state.0.fetch_or(PANICKED, Relaxed);
            }
            self.state.0.fetch_sub(1, Release);
        }
    }

    /// Counts this thread into the loop seen in `state`, unless it has been closed since.
    fn enter(&self, mut state: u64) -> bool {
        let number = state / LOOP;
        while state / LOOP == number && state & OPEN != 0 {
            match self.state.0.compare_exchange_weak(state, state + 1, Acquire, Relaxed) {
                Ok(_) => return true,
                Err(now) => state = now,
            }
        }
        false
    }

    /// Waits until there is a loop after number `seen`, or the end.
    fn await_loop(&self, seen: u64) -> u64 {
        let news = |state: u64| state / LOOP != seen || state & STOP != 0;
        for _ in 0..self.spins {
            let state = self.state.0.load(Relaxed);
            if news(state) {
                return state;
            }
            spin_loop();
        }
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            let state = self.state.0.load(Relaxed);
            if news(state) {
                return state;
            }
            thread::yield_now();
        }
        let mut gate = lock(&self.gate);
        self.asleep.fetch_add(1, SeqCst);
        let state = loop {
            let state = self.state.0.load(SeqCst);
            if news(state) {
                break state;
            }
            gate = self.wake.wait(gate).unwrap_or_else(PoisonError::into_inner);
        };
        self.asleep.fetch_sub(1, SeqCst);
        state
    }
}

/// No panic happens under these locks, so poison means nothing.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn lock_if<T>(mutex: &Mutex<T>, wanted: bool) -> Option<MutexGuard<'_, T>> {
    wanted.then(|| lock(mutex))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once_whatever_the_sizes() {
        for threads in [0, 1, 2, 3, 9] {
            let team = Team::new(threads);
            assert_eq!(team.threads(), threads.max(1));
            for n in [0, 1, 2, 3, 7, 64, 1000] {
                let counts: Vec<AtomicUsize> = (0..n).map(|_| AtomicUsize::new(0)).collect();
                let inside: Vec<AtomicBool> = (0..team.threads()).map(|_| AtomicBool::new(false)).collect();
                team.run(n, &|i, thread| {
                    assert!(!inside[thread].swap(true, SeqCst), "two tasks at once on thread {thread}");
                    counts[i].fetch_add(1, SeqCst);
                    inside[thread].store(false, SeqCst);
                });
                let bad: Vec<_> = counts.iter().enumerate().filter(|(_, c)| c.load(SeqCst) != 1).collect();
                assert!(bad.is_empty(), "threads {threads}, n {n}: {bad:?}");
            }
        }
    }

    #[test]
    fn thousands_of_loops_see_each_others_writes() {
        for threads in [2, 3, 8] {
            let team = Team::new(threads);
            let cells: Vec<AtomicUsize> = (0..17).map(|_| AtomicUsize::new(0)).collect();
            for round in 0..5_000 {
                team.run(cells.len(), &|i, _| {
                    // Relaxed on purpose: the loops themselves must order one round after the other.
                    assert_eq!(cells[i].load(Relaxed), round);
                    cells[i].store(round + 1, Relaxed);
                });
                if round % 1000 == 999 {
                    thread::sleep(PATIENCE * 3); // let them fall asleep, then wake them
                }
            }
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_team_goes_on() {
        for threads in [1, 2, 5] {
            let team = Team::new(threads);
            for round in 0..50 {
                let failed = catch_unwind(AssertUnwindSafe(|| {
                    team.run(100, &|i, _| {
                        if i == round {
                            panic!("task {i}");
                        }
                    })
                }));
                let payload = failed.expect_err("the panic was lost");
                assert_eq!(payload.downcast_ref::<String>(), Some(&format!("task {round}")));
                let done = AtomicUsize::new(0);
                team.run(10, &|_, _| {
                    done.fetch_add(1, SeqCst);
                });
                assert_eq!(done.load(SeqCst), 10);
            }
        }
    }

    #[test]
    fn loops_do_not_nest() {
        for threads in [1, 2] {
            let team = Team::new(threads);
            assert!(catch_unwind(AssertUnwindSafe(|| team.run(4, &|_, _| team.run(1, &|_, _| ())))).is_err());
            team.run(4, &|_, _| ());
        }
    }

    #[test]
    fn a_team_may_be_dropped_at_once_and_asleep() {
        for _ in 0..50 {
            drop(Team::new(4));
        }
        let team = Team::new(4);
        thread::sleep(PATIENCE * 20);
        drop(team);
    }
}
