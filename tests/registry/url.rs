//! Plain downloads: whatever the server does, the cache holds the right file or none.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use ostro::registry::{Error, Status, cached, pull, remove, status};

use super::{
    Log, Scratch, assert_clean, content, entry, entry_of, exists, part_of, server::Reply, server::Request,
    server::Server, sha256, url_source,
};

const LEN: usize = 300_000;

/// What is left in the cache.
#[derive(Debug, PartialEq)]
enum Outcome {
    /// The right file.
    Good,
    /// An error with this in it, and neither file nor part.
    Clean(&'static str),
    /// An error with this in it, no file, but a part to go on with.
    Resumable(&'static str),
}

type Answer = Box<dyn Fn(&Request, usize) -> Reply + Send + Sync>;

#[test]
fn every_kind_of_server() {
    let good = Arc::new(content(LEN));
    let bad = {
        let mut bad = good.to_vec();
        bad[LEN / 2] ^= 1;
        Arc::new(bad)
    };
    let file = |bytes: &Arc<Vec<u8>>, change: fn(Reply, usize) -> Reply| -> Answer {
        let bytes = bytes.clone();
        Box::new(move |r, n| change(Reply::file(r, &bytes, "\"v1\""), n))
    };
    let no_ranges = |change: fn(Reply, usize) -> Reply| -> Answer {
        let bytes = good.clone();
        Box::new(move |_, n| change(Reply::whole(&bytes), n))
    };
    let longer = Arc::new([good.as_slice(), b"more"].concat());
    let without_length = |bytes: &Arc<Vec<u8>>, cut: fn(usize) -> usize| -> Answer {
        let bytes = bytes.clone();
        Box::new(move |r, n| {
            let mut reply = Reply::file(r, &bytes, "\"v1\"");
            reply.headers.retain(|(name, _)| *name != "Content-Length");
            reply.cut(cut(n))
        })
    };
    use Outcome::{Clean, Good, Resumable};
    let rows: Vec<(&str, Answer, Outcome, &[&str])> = vec![
        ("as it should be", file(&good, |r, _| r), Good, &["-"]),
        (
            "cut twice, ranges",
            file(&good, |r, n| if n < 2 { r.cut(100_000) } else { r }),
            Good,
            &["-", "bytes=100000-", "bytes=200000-"],
        ),
        ("cut at once, ranges", file(&good, |r, n| if n < 2 { r.cut(0) } else { r }), Good, &["-", "-", "-"]),
        ("cut once, no ranges", no_ranges(|r, n| if n < 1 { r.cut(99) } else { r }), Good, &["-", "bytes=99-"]),
        ("always cut, no ranges", no_ranges(|r, _| r.cut(7)), Resumable("broke off after 7"), &[]),
        ("busy, then well", file(&good, |r, n| if n < 2 { Reply::status(503) } else { r }), Good, &["-", "-", "-"]),
        ("always busy", file(&good, |_, _| Reply::status(503)), Resumable("HTTP status 503"), &["-"; 4]),
        ("not there", file(&good, |_, _| Reply::status(404)), Resumable("HTTP status 404"), &["-"]),
        ("forbidden", file(&good, |_, _| Reply::status(403)), Resumable("HTTP status 403"), &["-"]),
        ("wrong bytes", file(&bad, |r, _| r), Clean("expected"), &["-"]),
        ("too long", file(&longer, |r, _| r), Clean("size 300004 bytes, expected 300000"), &["-"]),
        ("empty", no_ranges(|_, _| Reply::whole(b"")), Clean("size 0 bytes, expected 300000"), &["-"]),
        ("no length", without_length(&good, |_| LEN), Good, &["-"]),
        ("no length, cut", without_length(&good, |n| if n == 0 { 1000 } else { LEN }), Good, &["-", "bytes=1000-"]),
        ("no length, too long", without_length(&longer, |_| LEN + 4), Clean("expected 300000"), &["-"]),
        (
            "a range nobody asked for",
            file(&good, |r, n| match n {
                0 => r.cut(1000),
                1 => Reply::whole(b"xx").with("Content-Range", "bytes 5-6/300000").code(206),
                _ => r,
            }),
            Good,
            &["-", "bytes=1000-", "-"],
        ),
        (
            "a range without saying which",
            file(&good, |r, n| match n {
                0 => r.cut(1000),
                1 => Reply::whole(b"xx").code(206),
                _ => r,
            }),
            Good,
            &["-", "bytes=1000-", "bytes=1000-"],
        ),
        (
            "suddenly shorter",
            file(&good, |r, n| match n {
                0 => r.cut(1000),
                1 => Reply::status(416),
                _ => r,
            }),
            Good,
            &["-", "bytes=1000-", "-"],
        ),
        (
            "another file from the middle on",
            {
                let (good, bad) = (good.clone(), bad.clone());
                Box::new(move |r, n| match n {
                    0 => Reply::file(r, &bad, "\"v0\"").cut(200_000),
                    _ => Reply::file(r, &good, "\"v1\""),
                })
            },
            Good,
            &["-", "bytes=200000-"],
        ),
    ];
    let failures: Vec<String> = thread::scope(|scope| {
        let runs: Vec<_> = rows
            .into_iter()
            .map(|(name, answer, outcome, ranges)| {
                let good = good.clone();
                scope.spawn(move || check(&good, answer, &outcome, ranges).map_err(|e| format!("{name}: {e}")))
            })
            .collect();
        runs.into_iter().filter_map(|run| run.join().unwrap().err()).collect()
    });
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

fn check(good: &[u8], answer: Answer, outcome: &Outcome, ranges: &[&str]) -> Result<(), String> {
    let (scratch, server) = (Scratch::new(), Server::start(answer));
    let entry = entry(good, &url_source(&format!("{}/toy.gguf", server.base)));
    let (env, target) = (scratch.env(), scratch.target());
    let result = pull(&env, &entry, &());
    let text = result.as_ref().map_or_else(ToString::to_string, |p| p.display().to_string());
    let fits = match outcome {
        Outcome::Good => {
            matches!(&result, Ok(path) if *path == target && fs::read(path).is_ok_and(|b| b == good))
                && !exists(&part_of(&target))
                && cached(&env, &entry).is_some()
        }
        Outcome::Clean(word) => {
            assert_clean(&scratch);
            result.is_err() && text.contains(word) && text.contains("toy")
        }
        Outcome::Resumable(word) => result.is_err() && text.contains(word) && !exists(&target),
    };
    if !fits {
        return Err(format!("expected {outcome:?}, found {text}"));
    }
    if !ranges.is_empty() && server.ranges() != ranges {
        return Err(format!("expected requests {ranges:?}, found {:?}", server.ranges()));
    }
    Ok(())
}

impl Reply {
    fn code(mut self, status: u16) -> Self {
        self.status = status;
        self
    }
}

#[test]
fn a_later_pull_goes_on_where_the_last_one_ended() {
    let (scratch, bytes) = (Scratch::new(), content(LEN));
    let up = Arc::new(AtomicUsize::new(0));
    let server = {
        let (up, bytes) = (up.clone(), bytes.clone());
        Server::start(move |r, n| match up.load(Ordering::SeqCst) {
            0 if n == 0 => Reply::file(r, &bytes, "\"v1\"").cut(123_456),
            0 => Reply::status(404),
            _ => Reply::file(r, &bytes, "\"v1\""),
        })
    };
    let (env, entry) = (scratch.env(), entry(&bytes, &url_source(&format!("{}/f", server.base))));
    pull(&env, &entry, &()).unwrap_err();
    assert_eq!(fs::metadata(part_of(&scratch.target())).unwrap().len(), 123_456);
    assert!(matches!(status(&env, &entry), Status::Partial(n) if n >= 123_456));
    assert_eq!(cached(&env, &entry), None);

    up.store(1, Ordering::SeqCst);
    let log = Log::default();
    pull(&env, &entry, &log).unwrap();
    assert_eq!(server.ranges().last().unwrap(), "bytes=123456-");
    assert!(log.has("hashing toy.gguf 123456"), "{:?}", log.0);
    assert_eq!(fs::read(scratch.target()).unwrap(), bytes);
}

#[test]
fn a_part_that_was_tampered_with_never_gets_through() {
    let (scratch, bytes) = (Scratch::new(), content(LEN));
    let server = {
        let bytes = bytes.clone();
        Server::start(move |r, n| match n {
            0 => Reply::file(r, &bytes, "\"v1\"").cut(1000),
            1 => Reply::status(404),
            _ => Reply::file(r, &bytes, "\"v1\""),
        })
    };
    let (env, entry) = (scratch.env(), entry(&bytes, &url_source(&format!("{}/f", server.base))));
    pull(&env, &entry, &()).unwrap_err();
    let part = part_of(&scratch.target());
    let mut wrong = fs::read(&part).unwrap();
    wrong[10] ^= 1;
    fs::write(&part, wrong).unwrap();
    let error = pull(&env, &entry, &()).unwrap_err().to_string();
    assert!(error.contains(&sha256(&bytes)), "{error}");
    assert_clean(&scratch);
    pull(&env, &entry, &()).unwrap();
}

#[test]
fn the_next_source_is_tried_and_the_cache_is_used() {
    let (scratch, bytes) = (Scratch::new(), content(LEN));
    let server = {
        let bytes = bytes.clone();
        Server::start(move |r, _| match r.path.as_str() {
            "/good" => Reply::file(r, &bytes, "\"v1\""),
            _ => Reply::status(404),
        })
    };
    let sources = ["none", "good", "never"].map(|p| url_source(&format!("{}/{p}", server.base))).concat();
    let (env, entry, log) = (scratch.env(), entry(&bytes, &sources), Log::default());
    pull(&env, &entry, &log).unwrap();
    assert!(log.has("failed url http://127.0.0.1") && log.has("verified toy.gguf"), "{:?}", log.0);
    assert_eq!(server.requests().len(), 2);

    pull(&env, &entry, &()).unwrap();
    assert_eq!(server.requests().len(), 2, "a cached model was fetched again");

    // Touched: hashed again, not fetched again.
    fs::File::options().append(true).open(scratch.target()).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    assert_eq!(cached(&env, &entry), None);
    pull(&env, &entry, &()).unwrap();
    assert_eq!(server.requests().len(), 2, "a touched model was fetched again");

    // Changed: fetched again.
    let mut wrong = bytes.clone();
    wrong[0] ^= 1;
    fs::write(scratch.target(), wrong).unwrap();
    assert_eq!(cached(&env, &entry), None);
    pull(&env, &entry, &()).unwrap();
    assert_eq!(fs::read(scratch.target()).unwrap(), bytes);

    // Another hash in the catalogue: no longer what is wanted.
    let other = entry_of(&format!("size = {LEN}\nsha256 = \"{}\"", sha256(b"")), &sources);
    assert_eq!(cached(&env, &other), None);

    assert!(remove(&env.cache, "toy").unwrap() >= LEN as u64);
    assert!(matches!(remove(&env.cache, "toy"), Err(Error::NotCached { .. })));
    assert!(matches!(remove(&env.cache, "../home"), Err(Error::NotCached { .. })));
    assert_eq!(status(&env, &entry), Status::Absent);
}

#[test]
fn all_reasons_are_told() {
    let (scratch, server) = (Scratch::new(), Server::start(|_, _| Reply::status(404)));
    let sources = ["a", "b"].map(|p| url_source(&format!("{}/{p}", server.base))).concat();
    let error = pull(&scratch.env(), &entry(b"x", &sources), &()).unwrap_err().to_string();
    for word in ["toy", "/a", "/b", "404", "path of a GGUF file"] {
        assert!(error.contains(word), "{word} is not in: {error}");
    }
    assert!(!error.contains('\n'), "{error}");
}

#[test]
fn too_small_a_disk_is_found_out_before() {
    let (scratch, server) = (Scratch::new(), Server::start(|_, _| Reply::status(500)));
    let file = format!("size = {}\nsha256 = \"{}\"", 1_u64 << 60, sha256(b""));
    let entry = entry_of(&file, &url_source(&server.base));
    let error = pull(&scratch.env(), &entry, &()).unwrap_err();
    assert!(matches!(error, Error::NoSpace { need, .. } if need == 1 << 60), "{error}");
    assert_eq!(server.requests().len(), 0);
}

#[test]
fn of_two_pulls_at_once_one_waits() {
    let (scratch, bytes) = (Scratch::new(), content(LEN));
    let server = {
        let bytes = bytes.clone();
        Server::start(move |r, _| Reply::file(r, &bytes, "\"v1\"").hold(Duration::from_millis(300)))
    };
    let entry = entry(&bytes, &url_source(&format!("{}/f", server.base)));
    let waited: usize = thread::scope(|scope| {
        let pulls: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let log = Log::default();
                    pull(&scratch.env(), &entry, &log).unwrap();
                    usize::from(log.has("waiting"))
                })
            })
            .collect();
        pulls.into_iter().map(|p| p.join().unwrap()).sum()
    });
    assert_eq!((waited, server.requests().len()), (1, 1));
}
