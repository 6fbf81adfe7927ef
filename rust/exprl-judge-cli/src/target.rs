//! Where the output goes: standard output, a file, or beside a file that it replaces in the end.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use exprl_judge::View;

use crate::Error;
use crate::output::{Done, read_done};

/// What may be done with a file that holds lines.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Existing {
    /// Nothing: it is refused.
    Keep,
    /// Go on after its last whole line.
    Resume,
    /// Replace it by a whole new one.
    Replace,
}

/// An opened output.
pub(crate) struct Target {
    pub(crate) out: Box<dyn Write + Send>,
    /// What an earlier run wrote, where this one goes on.
    pub(crate) done: VecDeque<Done>,
    /// The file that is written, and the one that it replaces once it is whole.
    pub(crate) replaces: Option<(PathBuf, PathBuf)>,
}

/// Opens the output. To resume, reads what an earlier run wrote, and cuts off a torn last line.
pub(crate) fn open(path: Option<&Path>, existing: Existing, view: View) -> Result<Target, Error> {
    let Some(path) = path else {
        return Ok(Target::new(std::io::stdout()));
    };
    let failed = |error| Error::file(path, &error);
    // Pipes and devices hold nothing that could be lost.
    let holds_lines = std::fs::metadata(path).is_ok_and(|file| file.is_file() && file.len() > 0);
    match existing {
        Existing::Resume => {
            let mut options = OpenOptions::new();
            options.create(true).truncate(false).write(true).read(true);
            let mut file = options.open(path).map_err(failed)?;
            let done = read_done(&mut file, path, view)?;
            Ok(Target {
                done,
                ..Target::new(file)
            })
        }
        Existing::Replace if holds_lines => {
            // The file itself, where the path is a link to it.
            let old = std::fs::canonicalize(path).map_err(failed)?;
            let mut new = old.clone().into_os_string();
            new.push(".new");
            let new = PathBuf::from(new);
            let file = File::create(&new).map_err(|error| Error::file(&new, &error))?;
            Ok(Target {
                replaces: Some((new, old)),
                ..Target::new(file)
            })
        }
        Existing::Keep if holds_lines => Err(Error::Usage(format!(
            "{} exists: --resume goes on after its last whole line, --force replaces it",
            path.display()
        ))),
        Existing::Keep | Existing::Replace => Ok(Target::new(File::create(path).map_err(failed)?)),
    }
}

impl Target {
    fn new(out: impl Write + Send + 'static) -> Self {
        Self {
            out: Box::new(BufWriter::new(out)),
            done: VecDeque::new(),
            replaces: None,
        }
    }
}
