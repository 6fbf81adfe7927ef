//! The grade in a judge's reply.

/// Version of the rules of [`read_grade`], part of a ledger key: replies are read again when it changes.
pub const PARSER_VERSION: u32 = 1;

/// What a reply says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reading {
    /// The grade, 1..=5.
    Grade(u8),
    /// Two different anchored grades.
    Conflict,
    /// The last anchored score is not one of 1, 2, 3, 4, 5.
    OutOfRange,
    /// No anchored score.
    Absent,
}

/// Reads the grade of a judge's reply. Linear in the reply's length.
#[must_use]
pub fn read_grade(reply: &str) -> Reading {
    let mut reading = Reading::Absent;
    for line in reply.lines() {
        let Some(value) = line.trim().strip_prefix("Score: ") else {
            continue;
        };
        reading = match value.parse::<u8>() {
            Ok(grade @ 1..=5) => match reading {
                Reading::Grade(other) if other != grade => return Reading::Conflict,
                _ => Reading::Grade(grade),
            },
            _ => Reading::OutOfRange,
        };
    }
    reading
}
