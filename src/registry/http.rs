//! Downloads over HTTP(S) that go on where they were cut off.
//!
//! Beside `FILE.part` lies a note with the address and the ETag. A later attempt asks for the rest with
//! Range and If-Range, so that a file that has changed meanwhile comes whole; the hash has the last word.

use std::{io::Read, path::Path, thread, time::Duration};

use serde::{Deserialize, Serialize};
use ureq::{
    Agent,
    config::RedirectAuthHeaders,
    http::{HeaderMap, Response, StatusCode, header},
    tls::{PemItem, RootCerts, TlsConfig, parse_pem},
};

use super::{
    Env, Event, IoAt, Progress, SourceError,
    cache::{CHUNK, Expected, Part, discard, note_of},
};

/// Attempts in a row that may bring nothing new.
const TRIES: u32 = 4;
/// The wait before the second of them; it doubles.
const FIRST_WAIT: Duration = Duration::from_millis(200);

/// Where a part came from.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Note {
    url: String,
    etag: Option<String>,
}

/// A client that follows redirects, and one that does not.
pub(super) struct Client {
    pub follow: Agent,
    pub stay: Agent,
}

impl Client {
    /// `url` decides about the proxy: none on the way to this machine itself.
    pub fn new(env: &Env, url: &str) -> Result<Self, SourceError> {
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .user_agent(concat!("ostro/", env!("CARGO_PKG_VERSION")))
            .redirect_auth_headers(RedirectAuthHeaders::Never) // the token is for the first host alone
            .timeout_connect(Some(Duration::from_secs(20)))
            .timeout_per_read(Some(Duration::from_secs(60)));
        if let Some(path) = &env.ca_file {
            config = config.tls_config(TlsConfig::builder().root_certs(roots(path)?).build());
        }
        if is_loopback(url) {
            config = config.proxy(None);
        }
        let config = config.build();
        let stay = Agent::config_builder()
            .http_status_as_error(false)
            .user_agent(config.user_agent().clone())
            .timeout_connect(config.timeouts().connect)
            .timeout_per_read(config.timeout_per_read())
            .tls_config(config.tls_config().clone())
            .proxy(config.proxy().cloned())
            .max_redirects(0)
            .build();
        Ok(Self { follow: config.into(), stay: stay.into() })
    }
}

/// Brings `url` into `part`, complete but not yet judged.
pub(super) fn download(
    client: &Client,
    url: &str,
    token: Option<&str>,
    part: &Path,
    expected: &Expected,
    progress: &dyn Progress,
) -> Result<Part, SourceError> {
    let mut get = Get { client, url, token, expected, progress, etag: None, total: expected.size };
    let mut part = get.open(part)?;
    progress.event(Event::File { name: &expected.name, total: expected.size, done: part.len() });
    let (mut best, mut idle) = (part.len(), 0);
    while expected.size.is_none_or(|size| part.len() < size) {
        match get.attempt(&mut part) {
            Ok(()) => break,
            Err(e) if !e.is_transient() => return Err(e),
            Err(e) => {
                // Only bytes never had before count: a server without ranges starts again each time.
                idle = if part.len() > best { 0 } else { idle + 1 };
                best = best.max(part.len());
                if idle >= TRIES {
                    return Err(e);
                }
                thread::sleep(FIRST_WAIT * (1 << idle));
            }
        }
    }
    Ok(part)
}

struct Get<'a> {
    client: &'a Client,
    url: &'a str,
    token: Option<&'a str>,
    expected: &'a Expected,
    progress: &'a dyn Progress,
    /// Of the bytes in the part.
    etag: Option<String>,
    total: Option<u64>,
}

impl Get<'_> {
    /// The part of an earlier attempt if it is of this file, else an empty one.
    fn open(&mut self, path: &Path) -> Result<Part, SourceError> {
        let len = std::fs::metadata(path).map_or(0, |m| m.len());
        let note: Note =
            std::fs::read(note_of(path)).ok().and_then(|b| serde_json::from_slice(&b).ok()).unwrap_or_default();
        let complete = self.expected.size == Some(len);
        let usable = len > 0 && self.expected.size.is_none_or(|size| len <= size);
        if !usable || !(complete || note.url == self.url) {
            return Ok(Part::create(path)?);
        }
        self.etag = note.etag;
        self.progress.event(Event::Hashing { name: &self.expected.name, total: len });
        Ok(Part::resume(path, |done| self.progress.event(Event::Bytes { done }))?)
    }

    fn attempt(&mut self, part: &mut Part) -> Result<(), SourceError> {
        let mut request = self.client.follow.get(self.url);
        if let Some(token) = self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        if part.len() > 0 {
            request = request.header(header::RANGE, format!("bytes={}-", part.len()));
            if let Some(etag) = self.etag.as_ref().filter(|e| !e.starts_with("W/")) {
                request = request.header(header::IF_RANGE, etag);
            }
        }
        let response = request.call().map_err(|e| network(self.url, &e))?;
        self.begin(&response, part)?;
        self.body(response, part)
    }

    /// Judges the answer: what of the file comes, and whether it is the same file as before.
    fn begin(&mut self, response: &Response<ureq::Body>, part: &mut Part) -> Result<(), SourceError> {
        let headers = response.headers();
        match response.status() {
            StatusCode::PARTIAL_CONTENT => {
                let (start, total) = content_range(headers)
                    .ok_or_else(|| self.broken("status 206 without a usable Content-Range header"))?;
                if start != part.len() {
                    part.restart()?;
                    return Err(self.broken(&format!("sent bytes from {start} on, not those asked for")));
                }
                self.total = total.or(self.total);
            }
            StatusCode::OK => {
                if part.len() > 0 {
                    part.restart()?; // no ranges here, or another file than before
                }
                self.total = text(headers, "content-length").and_then(|v| v.parse().ok()).or(self.expected.size);
            }
            StatusCode::RANGE_NOT_SATISFIABLE if part.len() > 0 => {
                part.restart()?; // the file there is shorter than the part
                return Err(self.broken("has fewer bytes than the interrupted download"));
            }
            status => {
                let hint = if status == StatusCode::NOT_FOUND { ": not there" } else { "" };
                return Err(SourceError::Status { url: self.url.to_owned(), status: status.as_u16(), hint });
            }
        }
        if let (Some(found), Some(expected)) = (self.total, self.expected.size)
            && found != expected
        {
            discard(&part.path);
            return Err(SourceError::Size { file: self.expected.name.clone(), found, expected });
        }
        self.etag = text(headers, "etag").map(str::to_owned);
        let note = Note { url: self.url.to_owned(), etag: self.etag.clone() };
        let path = note_of(&part.path);
        let json = serde_json::to_vec(&note).unwrap_or_default();
        std::fs::write(&path, json).map_err(IoAt::new(&path, "write"))?;
        self.progress.event(Event::File { name: &self.expected.name, total: self.total, done: part.len() });
        Ok(())
    }

    fn body(&self, response: Response<ureq::Body>, part: &mut Part) -> Result<(), SourceError> {
        let mut body = response.into_body().into_reader();
        let mut buffer = vec![0; CHUNK];
        loop {
            let n = match body.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => n,
                Err(e) => return Err(self.broken(&format!("broke off after {} bytes: {e}", part.len()))),
            };
            part.write(&buffer[..n])?;
            if let Some(expected) = self.expected.size.filter(|&size| part.len() > size) {
                discard(&part.path);
                return Err(SourceError::Size { file: self.expected.name.clone(), found: part.len(), expected });
            }
            self.progress.event(Event::Bytes { done: part.len() });
        }
        match self.total.filter(|&total| part.len() < total) {
            Some(total) => Err(self.broken(&format!("broke off after {} of {total} bytes", part.len()))),
            None => Ok(()),
        }
    }

    fn broken(&self, reason: &str) -> SourceError {
        SourceError::Network { url: self.url.to_owned(), reason: reason.to_owned() }
    }
}

pub(super) fn network(url: &str, e: &ureq::Error) -> SourceError {
    SourceError::Network { url: url.to_owned(), reason: e.to_string().replace('\n', " ") }
}

/// A header as text.
pub(super) fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok().map(str::trim)
}

/// First byte and total length of `bytes a-b/total`.
fn content_range(headers: &HeaderMap) -> Option<(u64, Option<u64>)> {
    let (range, total) = text(headers, "content-range")?.strip_prefix("bytes ")?.split_once('/')?;
    Some((range.split_once('-')?.0.trim().parse().ok()?, total.trim().parse().ok()))
}

fn is_loopback(url: &str) -> bool {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let host = rest.split('/').next().unwrap_or("");
    ["127.0.0.1", "localhost", "[::1]"]
        .iter()
        .any(|h| host.strip_prefix(h).is_some_and(|rest| rest.is_empty() || rest.starts_with(':')))
}

/// The certificates of SSL_CERT_FILE, which companies set that read their own traffic.
fn roots(path: &Path) -> Result<RootCerts, SourceError> {
    let pem = std::fs::read(path).map_err(IoAt::new(path, "read the certificates that SSL_CERT_FILE names"))?;
    let certs: Vec<_> = parse_pem(&pem)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(cert)) => Some(cert),
            _ => None,
        })
        .collect();
    Ok(RootCerts::new_with_certs(&certs))
}
