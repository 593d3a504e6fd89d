//! Files that are there when they are whole.

use anyhow::{Context, bail};
use std::io::{BufWriter, Write};
use std::path::Path;

/// Writes a file under a temporary name and gives it its own when it is whole and on the disk. What is there and is no
/// plain file (a device, a pipe) is written to as it is.
pub(super) fn write_whole(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<&std::fs::File>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let unwritten = || format!("{}: cannot be written", path.display());
    if path.is_symlink()
        && let Ok(target) = std::fs::canonicalize(path)
    {
        // The link keeps pointing where it did.
        return write_whole(&target, write);
    }
    let finish = |file: &std::fs::File| {
        let mut buffered = BufWriter::new(file);
        write(&mut buffered)?;
        buffered.flush().with_context(unwritten)
    };
    if std::fs::metadata(path).is_ok_and(|there| !there.is_file()) {
        return finish(&std::fs::OpenOptions::new().write(true).open(path).with_context(unwritten)?);
    }
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !folder.is_dir() {
        bail!("{}: found no folder {}, expected one; create it first", path.display(), folder.display());
    }
    let mut new = tempfile::Builder::new();
    // What the user's umask leaves of these, as of any file; a temporary one is private otherwise.
    #[cfg(unix)]
    new.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let temp = new.tempfile_in(folder).with_context(unwritten)?;
    finish(temp.as_file())?;
    temp.as_file().sync_all().with_context(unwritten)?;
    temp.persist(path).map_err(|e| e.error).with_context(unwritten)?;
    Ok(())
}
