//! Writes a ledger of made-up replies, for benchmarks: one for each 33 bytes on standard input, which are
//! the key and the grade.
//!
//! ```sh
//! cargo run --release -p exprl-judge --example fill_ledger -- RUN/ledger < keys
//! ```

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::PathBuf;

/// What a judge says before its grade, piece by piece.
const REMARKS: [&str; 4] = [
    "the rollout states the quantity that the reference starts from and names it as the reference does",
    "the equation follows from the line before it, and both sides have the value that the reference gives",
    "nothing in the text contradicts this, but the step that would prove it is left to the reader",
    "the number differs from that of the reference, because a carry was dropped two lines above",
];

fn main() -> io::Result<()> {
    let folder: PathBuf = std::env::args_os()
        .nth(1)
        .ok_or_else(|| io::Error::other("name the ledger's folder"))?
        .into();
    fs::create_dir_all(&folder)?;
    let file = File::create_new(folder.join("replies.ledger"))?;
    let mut out = BufWriter::with_capacity(1 << 20, file);
    out.write_all(b"exprl-judge-ledger 1\n")?;
    let mut keys = BufReader::with_capacity(1 << 20, io::stdin().lock());
    let mut asked = [0; 33];
    let mut record = Vec::new();
    while keys.read_exact(&mut asked).is_ok() {
        let (key, grade) = (&asked[..32], asked[32]);
        record.clear();
        record.extend_from_slice(key);
        write_reply(&mut record, usize::from(key[0]), grade)?;
        let length = u32::try_from(record.len()).map_err(io::Error::other)?;
        out.write_all(&length.to_le_bytes())?;
        out.write_all(&(!length).to_le_bytes())?;
        out.write_all(&record)?;
        out.write_all(&blake3::hash(&record).as_bytes()[..8])?;
    }
    out.flush()
}

/// A reply as the ledger keeps it, of two to five checkpoints.
fn write_reply(out: &mut Vec<u8>, seed: usize, grade: u8) -> io::Result<()> {
    let checkpoints = 2 + seed % 4;
    write!(out, r#"{{"status":"ok","grade":{grade},"text":""#)?;
    for number in 0..checkpoints {
        let remark = REMARKS[(seed + number) % REMARKS.len()];
        write!(out, r"Checkpoint {}: {remark}.\n", number + 1)?;
    }
    let completion = 26 * checkpoints + 6;
    write!(
        out,
        r#"Score: {grade}","probabilities":null,"reasked":false,"error":null,"usage":{{"prompt":{},"completion":{completion},"cached":1200}},"cut":false,"answer":null}}"#,
        1500 + 40 * seed
    )
}
