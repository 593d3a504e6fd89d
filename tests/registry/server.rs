//! A small HTTP server that misbehaves on request.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

#[derive(Debug, Clone)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub headers: HashMap<String, String>,
}

#[derive(Debug, Clone)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
    /// Close the connection after so many bytes of the body.
    pub cut: Option<usize>,
    /// Hold the connection open for this long at the end or at the cut.
    pub hold: Duration,
}

impl Reply {
    pub fn status(status: u16) -> Self {
        Self { status, headers: vec![("Content-Length", "0".into())], body: vec![], cut: None, hold: Duration::ZERO }
    }

    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// The file, or the range of it that is asked for.
    pub fn file(request: &Request, bytes: &[u8], etag: &str) -> Self {
        let range =
            request.headers.get("range").and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
        let same = request.headers.get("if-range").is_none_or(|e| e == etag);
        let start: usize = range.filter(|_| same).unwrap_or(0);
        if start > 0 && start >= bytes.len() {
            return Self::status(416);
        }
        let mut reply = Self::whole(&bytes[start..]).with("ETag", etag).with("Accept-Ranges", "bytes");
        if start > 0 {
            reply.status = 206;
            reply = reply.with("Content-Range", format!("bytes {start}-{}/{}", bytes.len() - 1, bytes.len()));
        }
        reply
    }

    /// The bytes, whatever was asked for.
    pub fn whole(bytes: &[u8]) -> Self {
        let headers = vec![("Content-Length", bytes.len().to_string())];
        Self { status: 200, headers, body: bytes.to_vec(), cut: None, hold: Duration::ZERO }
    }

    pub fn cut(mut self, at: usize) -> Self {
        self.cut = Some(at);
        self
    }

    pub fn hold(mut self, time: Duration) -> Self {
        self.hold = time;
        self
    }
}

pub struct Server {
    pub base: String,
    log: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    /// `answer` gets the request and its number, from 0.
    pub fn start(answer: impl Fn(&Request, usize) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let log = Arc::new(Mutex::new(Vec::new()));
        let (seen, answer) = (log.clone(), Arc::new(answer));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (seen, answer) = (seen.clone(), answer.clone());
                thread::spawn(move || {
                    // A client that went away is part of what is tested.
                    let Some(request) = read(&stream) else { return };
                    let number = {
                        let mut seen = seen.lock().unwrap();
                        seen.push(request.clone());
                        seen.len() - 1
                    };
                    let _ = write(&stream, &request, &answer(&request, number));
                });
            }
        });
        Self { base, log }
    }

    pub fn requests(&self) -> Vec<Request> {
        self.log.lock().unwrap().clone()
    }

    /// The Range headers, "-" where there was none.
    pub fn ranges(&self) -> Vec<String> {
        self.requests().iter().map(|r| r.headers.get("range").cloned().unwrap_or("-".into())).collect()
    }
}

fn read(stream: &TcpStream) -> Option<Request> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split_whitespace();
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.insert(name.to_lowercase(), value.trim().to_owned());
    }
    Some(Request { method, path, headers })
}

fn write(mut stream: &TcpStream, request: &Request, reply: &Reply) -> std::io::Result<()> {
    let mut head = format!("HTTP/1.1 {} Whatever\r\nConnection: close\r\n", reply.status);
    for (name, value) in &reply.headers {
        head += &format!("{name}: {value}\r\n");
    }
    stream.write_all(format!("{head}\r\n").as_bytes())?;
    if request.method != "HEAD" {
        stream.write_all(&reply.body[..reply.cut.unwrap_or(reply.body.len()).min(reply.body.len())])?;
        stream.flush()?;
        thread::sleep(reply.hold);
    }
    // A polite end, so that what was sent arrives even if the client has sent more.
    stream.shutdown(std::net::Shutdown::Write)?;
    let _ = stream.take(1024).read_to_end(&mut Vec::new());
    Ok(())
}
