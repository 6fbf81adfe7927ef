//! `exprl-judge ledger`.

use std::io::{BufWriter, Write};

use exprl_judge::{Status, ledger};
use serde_json::{Map, Value, json};

use crate::Error;
use crate::args::LedgerAction;

pub(crate) fn run(action: &LedgerAction) -> Result<u8, Error> {
    match action {
        LedgerAction::Stats { dir } => {
            let stats = ledger::stats(dir)?;
            let statuses: Map<_, _> = Status::ALL
                .iter()
                .zip(stats.statuses)
                .filter(|(_, count)| *count > 0)
                .map(|(status, count)| (status.name().to_owned(), json!(count)))
                .collect();
            let mut shown = json!(stats);
            shown["statuses"] = statuses.into();
            writeln!(std::io::stdout(), "{shown:#}")?;
        }
        LedgerAction::Export { dir } => {
            let count = ledger::export(dir, &mut BufWriter::new(std::io::stdout().lock()))?;
            say!("{count} replies");
        }
        LedgerAction::Show { dir, key } => {
            let found = ledger::LedgerReader::open(dir)?.get(key)?;
            let Some(line) = found else {
                say!("{}: no reply under {key}", dir.display());
                return Ok(1);
            };
            let shown: Value = serde_json::from_str(&line).map_err(std::io::Error::from)?;
            writeln!(std::io::stdout(), "{shown:#}")?;
        }
        LedgerAction::Compact { dir } => {
            let done = ledger::compact(dir)?;
            say!(
                "{} replies kept; {} bytes before, {} after",
                done.replies,
                done.bytes_before,
                done.bytes_after
            );
        }
    }
    Ok(0)
}
