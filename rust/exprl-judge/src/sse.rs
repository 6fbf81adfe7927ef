//! Server-sent events, as judges stream their replies (HTML Standard, 9.2.6).

/// An event or a line that is longer is refused.
const LONGEST: usize = 1 << 20;
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// More than [`Parser`] keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an event of the stream is longer than {LONGEST} bytes")]
pub struct TooLong;

/// Takes a stream in pieces, cut anywhere, and gives the data of its events.
///
/// Comments and all fields but `data` mean nothing here. An event that the stream's end cuts off is
/// not given. Bytes that are not UTF-8 become U+FFFD.
///
/// ```
/// let mut parser = exprl_judge::sse::Parser::default();
/// let mut events = Vec::new();
/// parser.feed(b": hello\r\ndata: {\"a\":", &mut events)?;
/// parser.feed(b" 1}\r\n\r\ndata: [DONE]\n\n", &mut events)?;
/// assert_eq!(events, ["{\"a\": 1}", "[DONE]"]);
/// # Ok::<(), exprl_judge::sse::TooLong>(())
/// ```
#[derive(Debug, Default)]
pub struct Parser {
    /// The line that has not ended yet.
    line: Vec<u8>,
    /// The data lines of the event that has not ended yet, each with a line feed.
    data: Vec<u8>,
    /// The last byte was a carriage return: a line feed right after it ends no second line.
    after_return: bool,
    /// The first line has been read.
    begun: bool,
}

impl Parser {
    /// Reads the next bytes; appends the data of each event that ends in them to `events`.
    pub fn feed(&mut self, bytes: &[u8], events: &mut Vec<String>) -> Result<(), TooLong> {
        let mut rest = bytes;
        if self.after_return && !rest.is_empty() {
            self.after_return = false;
            rest = rest.strip_prefix(b"\n").unwrap_or(rest);
        }
        while let Some(end) = memchr::memchr2(b'\n', b'\r', rest) {
            self.extend_line(&rest[..end])?;
            self.end_line(events)?;
            let returned = rest[end] == b'\r';
            rest = &rest[end + 1..];
            if returned {
                self.after_return = rest.is_empty();
                rest = rest.strip_prefix(b"\n").unwrap_or(rest);
            }
        }
        self.extend_line(rest)
    }

    fn extend_line(&mut self, bytes: &[u8]) -> Result<(), TooLong> {
        if self.line.len() + bytes.len() > LONGEST {
            return Err(TooLong);
        }
        self.line.extend_from_slice(bytes);
        Ok(())
    }

    fn end_line(&mut self, events: &mut Vec<String>) -> Result<(), TooLong> {
        let mut line = &self.line[..];
        if !std::mem::replace(&mut self.begun, true) {
            line = line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(line);
        }
        if line.is_empty() {
            if self.data.pop().is_some() {
                events.push(String::from_utf8_lossy(&self.data).into_owned());
            }
            self.data.clear();
        } else if let Some(value) = data_of(line) {
            if self.data.len() + value.len() > LONGEST {
                return Err(TooLong);
            }
            self.data.extend_from_slice(value);
            self.data.push(b'\n');
        }
        self.line.clear();
        Ok(())
    }
}

/// The value of a `data` field.
fn data_of(line: &[u8]) -> Option<&[u8]> {
    match line.strip_prefix(b"data")? {
        [] => Some(&[]),
        [b':', b' ', value @ ..] | [b':', value @ ..] => Some(value),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn events(pieces: &[&[u8]]) -> Vec<String> {
        let mut parser = Parser::default();
        let mut events = Vec::new();
        for piece in pieces {
            parser.feed(piece, &mut events).unwrap();
        }
        events
    }

    #[test]
    fn events_are_their_data_lines() {
        for (stream, expected) in [
            (
                &b"data: a\n\ndata:b\r\n\r\ndata:  c\r\r"[..],
                &["a", "b", " c"][..],
            ),
            (b"data: a\ndata: b\n\n", &["a\nb"]),
            (b"\xef\xbb\xbfdata: a\n\n", &["a"]),
            (
                b"\xef\xbb\xbf: x\ndata: a\n\n\xef\xbb\xbfdata: b\n\n",
                &["a"],
            ),
            (b": ping\n\nevent: x\nid: 1\n\nretry: 3\n\ndata\n\n", &[""]),
            (b"database: a\n\ndat: b\n\n data: c\n\n", &[]),
            (b"data: cut", &[]),
            (b"data: cut\n", &[]),
            (b"data: \xff\xc3\n\n", &["\u{fffd}\u{fffd}"]),
        ] {
            let name = String::from_utf8_lossy(stream);
            assert_eq!(events(&[stream]), expected, "{name:?}");
        }
    }

    #[test]
    fn endless_lines_and_events_are_refused() {
        let mut parser = Parser::default();
        let mut events = Vec::new();
        let long = vec![b'x'; LONGEST];
        parser.feed(&long, &mut events).unwrap();
        assert_eq!(parser.feed(b"x", &mut events), Err(TooLong));
        let mut parser = Parser::default();
        let line = [b"data: ", &long[..LONGEST / 2], b"\n"].concat();
        parser.feed(&line, &mut events).unwrap();
        assert_eq!(parser.feed(&line, &mut events), Err(TooLong));
    }

    proptest! {
        #[test]
        fn cuts_mean_nothing(
            stream in prop::collection::vec(
                prop_oneof![
                    Just(b"data: ".to_vec()), Just(b"\n".to_vec()), Just(b"\r".to_vec()),
                    Just(b"\r\n".to_vec()), Just(b": c".to_vec()), Just("\u{feff}".into()),
                    prop::collection::vec(any::<u8>(), 0..5),
                ],
                0..40,
            ),
            cuts in prop::collection::vec(0..8_usize, 0..30),
        ) {
            let stream = stream.concat();
            let mut pieces = Vec::new();
            let mut rest = &stream[..];
            for cut in cuts {
                let (piece, more) = rest.split_at(cut.min(rest.len()));
                pieces.push(piece);
                rest = more;
            }
            pieces.push(rest);
            prop_assert_eq!(events(&pieces), events(&[&stream]));
        }

        #[test]
        fn what_is_written_is_read(data in prop::collection::vec("[^\r\n]{0,20}", 1..10)) {
            let written = data.iter().fold(String::new(), |all, data| all + "data: " + data + "\n\n");
            prop_assert_eq!(events(&[written.as_bytes()]), data);
        }
    }
}
