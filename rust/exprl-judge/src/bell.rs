//! A descriptor for event loops: readable from the first ring on, until it is silenced.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

pub(crate) struct Bell {
    reader: UnixStream,
    writer: UnixStream,
}

impl Bell {
    pub(crate) fn new() -> io::Result<Self> {
        let (reader, writer) = UnixStream::pair()?;
        reader.set_nonblocking(true)?;
        writer.set_nonblocking(true)?;
        Ok(Self { reader, writer })
    }

    pub(crate) fn ring(&self) {
        // A full bell is a rung bell: the error of a write that would block says nothing.
        drop((&self.writer).write(&[1]));
    }

    pub(crate) fn silence(&self) {
        let mut rung = [0; 64];
        while (&self.reader)
            .read(&mut rung)
            .is_ok_and(|count| count == rung.len())
        {}
    }

    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.reader.as_fd()
    }
}
