//! The Hugging Face Hub as a source.
//!
//! A file that another program has already fetched into the Hub's own cache is taken from there. Else
//! the Hub is asked for the file's length and sha256 (it keeps large files by their sha256 and states it
//! as `x-linked-etag`), and the bytes come by `http`. The token goes to the Hub only, never to the hosts
//! that it redirects to.

use std::fs;

use hf_hub::{Cache, Repo, RepoType};
use ureq::http::header;

use super::{
    Env, Event, IoAt, Progress, SourceError,
    cache::{Expected, Shelf, hash_file},
    catalogue::{FileSpec, is_sha256},
    http::{self, Client},
};

/// One file in a repository.
pub(super) struct Remote<'a> {
    pub repo: &'a str,
    pub revision: &'a str,
    pub path: &'a str,
}

/// What the Hub says of a file.
struct Facts {
    /// Its address after all redirects within the Hub.
    url: String,
    sha256: Option<String>,
    size: Option<u64>,
}

pub(super) fn fetch(
    env: &Env,
    remote: &Remote,
    shelf: &Shelf,
    file: &FileSpec,
    progress: &dyn Progress,
) -> Result<(), SourceError> {
    if take_local(env, remote, shelf, file, progress)? {
        return Ok(());
    }
    let endpoint = env.hf_endpoint.trim_end_matches('/');
    let revision = remote.revision.replace('/', "%2F");
    let path: Vec<_> = remote.path.split('/').map(escape).collect();
    let url = format!("{endpoint}/{}/resolve/{revision}/{}", remote.repo, path.join("/"));
    let token = env.hf_token.clone().or_else(|| Cache::new(env.hf_home.join("hub")).token());
    let client = Client::new(env, &url)?;
    let facts = ask(&client, &url, token.as_deref())?;
    let url = facts.url.clone();
    let expected = judge(file, facts)?;
    let part = http::download(&client, &url, token.as_deref(), &shelf.part(file), &expected, progress)?;
    shelf.install(file, part, &expected)
}

/// Length and hash, without the bytes.
fn ask(client: &Client, url: &str, token: Option<&str>) -> Result<Facts, SourceError> {
    let mut address = url.to_owned();
    // A renamed repository answers with a redirect on the same host; only such are followed here,
    // because the answer that redirects away to the storage is the one that states the hash.
    for _ in 0..5 {
        let mut request = client.stay.head(&address);
        if let Some(token) = token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let response = request.call().map_err(|e| http::network(&address, &e))?;
        let (status, headers) = (response.status(), response.headers());
        let linked = http::text(headers, "x-linked-etag");
        if status.is_redirection() && linked.is_none() {
            let location = http::text(headers, "location").filter(|l| l.starts_with('/') && !l.starts_with("//"));
            let host = address.splitn(4, '/').take(3).collect::<Vec<_>>().join("/");
            let Some(location) = location else { break };
            address = host + location;
            continue;
        }
        if !status.is_success() && !status.is_redirection() {
            let hint = match status.as_u16() {
                401 | 403 if token.is_some() => ": the token may not read it: accept the model's terms on its page",
                401 | 403 => {
                    ": set HF_TOKEN to a token that may read it, after accepting the model's terms on its page"
                }
                404 => ": not there",
                _ => "",
            };
            return Err(SourceError::Status { url: address, status: status.as_u16(), hint });
        }
        let etag = linked.or_else(|| http::text(headers, "etag")).map(|e| e.trim_start_matches("W/").trim_matches('"'));
        let size = http::text(headers, "x-linked-size")
            .or_else(|| http::text(headers, "content-length").filter(|_| status.is_success()));
        return Ok(Facts {
            url: address.clone(),
            sha256: etag.filter(|e| is_sha256(e)).map(str::to_owned),
            size: size.and_then(|s| s.parse().ok()),
        });
    }
    Err(SourceError::Network { url: url.to_owned(), reason: "redirects without stating what the file is".to_owned() })
}

/// Catalogue and Hub must agree before a byte is fetched.
fn judge(file: &FileSpec, facts: Facts) -> Result<Expected, SourceError> {
    let name = file.name.clone();
    if let (Some(found), Some(expected)) = (facts.size, file.size)
        && found != expected
    {
        return Err(SourceError::Size { file: name, found, expected });
    }
    let sha256 = match (facts.sha256, file.sha256.clone()) {
        (Some(found), Some(expected)) if found != expected => {
            return Err(SourceError::Hash { file: name, found, expected });
        }
        (hub, own) => own.or(hub).ok_or(SourceError::NoHash { url: facts.url })?,
    };
    Ok(Expected { name, size: file.size.or(facts.size), sha256 })
}

/// Takes the file from the Hub's cache on this machine, if it is there and right.
fn take_local(
    env: &Env,
    remote: &Remote,
    shelf: &Shelf,
    file: &FileSpec,
    progress: &dyn Progress,
) -> Result<bool, SourceError> {
    let repo = Repo::with_revision(remote.repo.to_owned(), RepoType::Model, remote.revision.to_owned());
    let cache = Cache::new(env.hf_home.join("hub")).repo(repo);
    // A commit has no entry under refs/, so it is looked up among the snapshots itself.
    let found = cache.get(remote.path).or_else(|| {
        let path = cache.pointer_path(remote.revision).join(remote.path);
        path.exists().then_some(path)
    });
    let Some(blob) = found.and_then(|p| fs::canonicalize(p).ok()) else { return Ok(false) };
    let named = blob.file_name().and_then(|n| n.to_str()).filter(|n| is_sha256(n)).map(str::to_owned);
    let Some(sha256) = file.sha256.clone().or(named) else { return Ok(false) };
    let size = fs::metadata(&blob).map_err(IoAt::new(&blob, "look at"))?.len();
    if file.size.is_some_and(|want| want != size) {
        return Ok(false);
    }
    progress.event(Event::Hashing { name: &file.name, total: size });
    let found = hash_file(&blob, |done| progress.event(Event::Bytes { done }))?;
    if found != sha256 {
        return Ok(false);
    }
    shelf.take(file, &blob, sha256)?;
    Ok(true)
}

/// Percent-encodes one segment of a path.
fn escape(segment: &str) -> String {
    segment
        .bytes()
        .map(|b| match b {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => char::from(b).to_string(),
            _ => format!("%{b:02X}"),
        })
        .collect()
}
