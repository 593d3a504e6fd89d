//! The Hub, played by the local server: facts by HEAD, bytes from another host, the token for the Hub only.

use std::{fs, path::PathBuf};

use ostro::registry::{Env, pull};

use super::{
    Scratch, assert_clean, content, entry, entry_of,
    server::{Reply, Request, Server},
    sha256,
};

const SOURCE: &str =
    "[[model.source]]\nkind = \"hf\"\nrepo = \"own/toy\"\nrevision = \"abc123\"\npaths = [\"sub dir/toy.gguf\"]\n";
const PATH: &str = "/own/toy/resolve/abc123/sub%20dir/toy.gguf";

/// A Hub that keeps `bytes` elsewhere and states `etag` for them.
fn hub(bytes: &[u8], etag: &str) -> (Server, Server) {
    let store = {
        let bytes = bytes.to_vec();
        Server::start(move |r, n| {
            let reply = Reply::file(r, &bytes, "\"store\"");
            if n == 0 { reply.cut(1000) } else { reply }
        })
    };
    let (location, etag, size) = (format!("{}/blob", store.base), format!("\"{etag}\""), bytes.len());
    let hub = Server::start(move |r: &Request, _| match r.path.as_str() {
        PATH => Reply::status(302)
            .with("Location", &location)
            .with("X-Linked-Etag", &etag)
            .with("X-Linked-Size", size.to_string())
            .with("X-Repo-Commit", "abc123"),
        _ => Reply::status(404),
    });
    (hub, store)
}

fn env(scratch: &Scratch, hub: &Server, token: Option<&str>) -> Env {
    Env { hf_endpoint: hub.base.clone(), hf_token: token.map(str::to_owned), ..scratch.env() }
}

#[test]
fn the_hash_comes_from_the_hub_and_the_token_stays_there() {
    let (scratch, bytes) = (Scratch::new(), content(50_000));
    let (hub, store) = hub(&bytes, &sha256(&bytes));
    let entry = entry_of("size = 50000", SOURCE);
    pull(&env(&scratch, &hub, Some("secret")), &entry, &()).unwrap();
    assert_eq!(fs::read(scratch.target()).unwrap(), bytes);
    assert!(hub.requests().iter().all(|r| r.headers.get("authorization").is_some_and(|a| a == "Bearer secret")));
    assert!(!store.requests().is_empty());
    assert!(store.requests().iter().all(|r| !r.headers.contains_key("authorization")));
    assert_eq!(store.ranges(), ["-", "bytes=1000-"]);
    assert_eq!(hub.requests()[0].method, "HEAD");
}

#[test]
fn catalogue_and_hub_must_agree() {
    let bytes = content(50_000);
    let (right, other) = (sha256(&bytes), sha256(b"other"));
    // What the file says in the catalogue, what the Hub states, and what is in the error.
    let rows = [
        (format!("size = 50000\nsha256 = \"{right}\""), right.as_str(), None),
        ("size = 50000".to_owned(), right.as_str(), None),
        // A small file is kept in git, with a git hash: the catalogue's hash is enough, none is too little.
        (format!("size = 50000\nsha256 = \"{right}\""), "0123456789012345678901234567890123456789", None),
        ("size = 50000".to_owned(), "0123456789012345678901234567890123456789", Some("no sha256")),
        (format!("size = 50000\nsha256 = \"{other}\""), right.as_str(), Some(other.as_str())),
        (format!("size = 50001\nsha256 = \"{right}\""), right.as_str(), Some("size 50000 bytes, expected 50001")),
        ("size = 50000".to_owned(), other.as_str(), Some("sha256")),
    ];
    let mut failures = Vec::new();
    for (file, etag, expected) in rows {
        let (scratch, (hub, _store)) = (Scratch::new(), hub(&bytes, etag));
        let result = pull(&env(&scratch, &hub, None), &entry_of(&file, SOURCE), &());
        match (&result, expected) {
            (Ok(path), None) if fs::read(path).unwrap() == bytes => {}
            (Err(e), Some(word)) if e.to_string().contains(word) => assert_clean(&scratch),
            _ => failures.push(format!("{file}, hub {etag}: expected {expected:?}, found {result:?}")),
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn a_renamed_repository_is_followed() {
    let (scratch, bytes) = (Scratch::new(), content(5000));
    let served = bytes.clone();
    let server = Server::start(move |r, _| match r.path.as_str() {
        PATH => Reply::status(307).with("Location", "/new/name"),
        "/new/name" => Reply::file(r, &served, &format!("\"{}\"", sha256(&served))),
        _ => Reply::status(404),
    });
    pull(&env(&scratch, &server, None), &entry_of("size = 5000", SOURCE), &()).unwrap();
    assert_eq!(fs::read(scratch.target()).unwrap(), bytes);
}

#[test]
fn what_a_refusal_says() {
    for (status, token, word) in
        [(401, None, "set HF_TOKEN"), (403, Some("t"), "the token may not read it"), (404, None, "not there")]
    {
        let (scratch, server) = (Scratch::new(), Server::start(move |_, _| Reply::status(status)));
        let error = pull(&env(&scratch, &server, token), &entry(b"x", SOURCE), &()).unwrap_err().to_string();
        assert!(error.contains(word) && error.contains(&status.to_string()), "{error}");
        assert_eq!(server.requests().len(), 1);
        assert_clean(&scratch);
    }
}

#[test]
fn a_loop_of_redirects_ends() {
    let (scratch, server) = (Scratch::new(), Server::start(|r, _| Reply::status(307).with("Location", &r.path)));
    let error = pull(&env(&scratch, &server, None), &entry(b"x", SOURCE), &()).unwrap_err().to_string();
    assert!(error.contains("redirects"), "{error}");
}

#[test]
fn the_token_file_counts() {
    let (scratch, bytes) = (Scratch::new(), content(5000));
    let (hub, _store) = hub(&bytes, &sha256(&bytes));
    fs::create_dir_all(scratch.0.join("hf")).unwrap();
    fs::write(scratch.0.join("hf/token"), "from-file\n").unwrap();
    pull(&env(&scratch, &hub, None), &entry(&bytes, SOURCE), &()).unwrap();
    assert_eq!(hub.requests()[0].headers["authorization"], "Bearer from-file");
}

/// Puts a file into the Hub's own cache as Python's client lays it out; returns the blob.
fn in_hub_cache(scratch: &Scratch, bytes: &[u8], name: &str) -> PathBuf {
    let repo = scratch.0.join("hf/hub/models--own--toy");
    let (blob, link) = (repo.join("blobs").join(name), repo.join("snapshots/abc123/sub dir/toy.gguf"));
    fs::create_dir_all(blob.parent().unwrap()).unwrap();
    fs::create_dir_all(link.parent().unwrap()).unwrap();
    fs::write(&blob, bytes).unwrap();
    std::os::unix::fs::symlink(&blob, link).unwrap();
    blob
}

#[test]
fn a_file_in_the_hubs_own_cache_is_taken_from_there() {
    let bytes = content(50_000);
    let mut wrong = bytes.clone();
    wrong[1] ^= 1;
    for (file, blob, fetched) in [
        (format!("size = 50000\nsha256 = \"{}\"", sha256(&bytes)), &bytes, false),
        ("size = 50000".to_owned(), &bytes, false), // the name of the blob is its hash
        (format!("size = 50000\nsha256 = \"{}\"", sha256(&bytes)), &wrong, true),
    ] {
        let (scratch, (hub, _store)) = (Scratch::new(), hub(&bytes, &sha256(&bytes)));
        let kept = in_hub_cache(&scratch, blob, &sha256(&bytes));
        pull(&env(&scratch, &hub, None), &entry_of(&file, SOURCE), &()).unwrap();
        assert_eq!(fs::read(scratch.target()).unwrap(), bytes);
        assert_eq!(!hub.requests().is_empty(), fetched, "{file}");
        assert_eq!(&fs::read(kept).unwrap(), blob, "the Hub's cache was changed");
    }
}
