//! What an interrupted run leaves for the next: which tensors are whole, and what their bytes were.
//!
//! ```text
//! ostro quantize <hash of the job>
//! <tensors that are whole> <hash of the last one's bytes>
//! ```
//!
//! It lies beside the first file, as `NAME.part.journal`. The job's hash covers the headers of all files (so names,
//! types and metadata), the sizes and times of the source's files, the importance matrix, and this program's version.

use super::job::{Event, Job, part};
use super::{Error, source::SourceFile};
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;
use xxhash_rust::xxh3::Xxh3Default;

/// A hash of bytes that come in pieces; against damage, not against an enemy.
#[derive(Default)]
pub struct Hash(Xxh3Default);

impl Hash {
    /// Takes more bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn text(&self) -> String {
        format!("{:032x}", self.0.digest128())
    }
}

/// The journal of a job.
pub struct Journal {
    path: PathBuf,
    job: String,
    file: Option<File>,
}

impl Journal {
    /// The journal of a job; nothing is read or written.
    pub fn new(job: &Job<'_>) -> Journal {
        let mut hash = Hash::default();
        hash.update(env!("CARGO_PKG_VERSION").as_bytes());
        for file in &job.plan.files {
            hash.update(file.path.as_os_str().as_encoded_bytes());
            hash.update(file.layout.header());
        }
        for file in &job.source.files {
            let (bytes, modified) = state(file);
            hash.update(&bytes.to_le_bytes());
            hash.update(&modified.to_le_bytes());
        }
        for planned in &job.plan.tensors {
            if let Some(importance) = job.importance(&job.source.tensors[planned.source]) {
                importance.iter().for_each(|x| hash.update(&x.to_le_bytes()));
            }
        }
        let mut path = part(&job.plan.files[0].path).into_os_string();
        path.push(".journal");
        Journal { path: path.into(), job: hash.text(), file: None }
    }

    /// How many tensors of an earlier run are there and right; `None` when it was asked to stop.
    ///
    /// # Errors
    /// No journal, or one of another job.
    pub fn check(&self, job: &Job<'_>, event: &mut dyn FnMut(Event<'_>) -> bool) -> Result<Option<usize>, Error> {
        const NEXT: &str = "start anew without --resume";
        let text = match std::fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let expected = "what an interrupted run leaves";
                return Err(Error::bad(&self.path, "--resume", "no such file", expected, NEXT));
            }
            Err(e) => return Err(Error::io(&self.path, "read the file", e)),
        };
        let mut lines = text.lines();
        if lines.next().and_then(|line| line.strip_prefix(HEAD)) != Some(&self.job) {
            let (found, expected) = ("the journal of another job", "one of the same files, type and options");
            return Err(Error::bad(&self.path, "--resume", found, expected, NEXT));
        }
        // A line that the end of the run cut off does not count.
        let noted = lines.zip(1..).map_while(|(line, i)| {
            let (n, hash) = line.split_once(' ')?;
            (n.parse() == Ok(i) && i <= job.plan.tensors.len() && hash.len() == 32).then_some(hash)
        });
        let noted: Vec<&str> = noted.collect();
        let (mut right, mut again, mut checked) = (0, None, 0);
        for (i, want) in noted.iter().enumerate() {
            match hash_of(job, i, &mut checked, event) {
                Ok(None) => return Ok(None),
                Ok(Some(hash)) if hash == *want => right = i + 1,
                Ok(Some(_)) => again = Some("its bytes are not those that were written".to_owned()),
                Err(e) => again = Some(e.to_string()),
            }
            if again.is_some() {
                break;
            }
        }
        let bytes = job.plan.tensors[..right].iter().map(|t| job.source.tensors[t.source].bytes()).sum();
        event(Event::Resumed { tensors: right, bytes, again: again.as_deref() });
        Ok(Some(right))
    }

    /// Begins a new journal.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn begin(&mut self, job: &Job<'_>) -> Result<(), Error> {
        // Files of an earlier run must not be taken for those of this one.
        for file in &job.plan.files {
            let _ = std::fs::remove_file(part(&file.path));
        }
        self.file = Some(self.created(&[])?);
        Ok(())
    }

    /// Goes on behind the first `n` tensors.
    ///
    /// # Errors
    /// When it cannot be read or written.
    pub fn go_on(&mut self, n: usize) -> Result<(), Error> {
        let text = std::fs::read_to_string(&self.path).map_err(|e| Error::io(&self.path, "read the file", e))?;
        let kept: Vec<&str> = text.lines().skip(1).take(n).collect();
        self.file = Some(self.created(&kept)?);
        Ok(())
    }

    /// Writes the journal anew, with these lines, under a temporary name first.
    fn created(&self, lines: &[&str]) -> Result<File, Error> {
        let mut text = format!("{HEAD}{}\n", self.job);
        lines.iter().for_each(|line| text.extend([line, "\n"]));
        let write = || -> io::Result<File> {
            let new = part(&self.path);
            let mut file = File::create(&new)?;
            file.write_all(text.as_bytes())?;
            std::fs::rename(&new, &self.path)?;
            Ok(file)
        };
        write().map_err(|e| Error::io(&self.path, "create the file", e))
    }

    /// Notes that the first `n` tensors are whole, the last of which has this hash.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn note(&mut self, n: usize, hash: Hash) -> Result<(), Error> {
        let Some(file) = &mut self.file else { return Ok(()) };
        writeln!(file, "{n} {}", hash.text()).map_err(|e| Error::io(&self.path, "write the file", e))
    }

    /// Removes it: the job is done.
    pub fn remove(self) {
        // Without the files it belongs to it is nothing but a name.
        let _ = std::fs::remove_file(&self.path);
    }
}

const HEAD: &str = "ostro quantize ";

/// Size and time of a file, as far as the system tells them.
fn state(file: &SourceFile) -> (u64, u128) {
    let modified = |path: &Path| -> Option<u128> {
        let modified = std::fs::metadata(path).ok()?.modified().ok()?;
        Some(modified.duration_since(UNIX_EPOCH).ok()?.as_nanos())
    };
    (file.bytes().unwrap_or(0), modified(&file.path).unwrap_or(0))
}

/// The hash of the bytes that are there of tensor `i`; `None` when asked to stop. Before the first tensor of a file its
/// header is compared.
fn hash_of(
    job: &Job<'_>,
    i: usize,
    checked: &mut u64,
    event: &mut dyn FnMut(Event<'_>) -> bool,
) -> Result<Option<String>, Error> {
    let Some(planned) = job.plan.files.iter().find(|f| f.tensors.contains(&i)) else { return Ok(Some(String::new())) };
    let file = SourceFile::open(&part(&planned.path))?;
    let index = i - planned.tensors.start;
    if index == 0 {
        let mut header = vec![0; planned.layout.header().len()];
        file.read_at(0, &mut header)?;
        if header != planned.layout.header() {
            return Ok(Some(String::new()));
        }
    }
    let (mut at, mut left) = (planned.layout.offset(index), planned.layout.tensor_bytes(index));
    let mut hash = Hash::default();
    let mut bytes = vec![0; 1 << 20];
    while left > 0 {
        let n = left.min(bytes.len() as u64);
        let some = &mut bytes[..n as usize];
        file.read_at(at, some)?;
        hash.update(some);
        (at, left) = (at + n, left - n);
        *checked += n;
        if !event(Event::Checking { done: *checked }) {
            return Ok(None);
        }
    }
    Ok(Some(hash.text()))
}
