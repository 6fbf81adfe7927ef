//! Judge scores to advantages: every kind of `ExpRL`, GRPO, RLOO, Dr. GRPO.
//!
//! Scores lie in `[0, 1]` unless other bounds are given, one per segment; NaN is a missing score. A rollout with a missing score
//! (or without segments) is out: its advantages are NaN and no statistic sees it. The others are
//! the valid rollouts. Equation numbers are those of arXiv 2606.17024.

mod outcome;
mod process;

use std::ops::Range;

use strum::{EnumString, IntoStaticStr, VariantArray};

/// What can be wrong with the input.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Error {
    /// A name that is not in the list.
    #[error("unknown {what} {value:?}; choose one of {allowed}")]
    UnknownName {
        /// The setting.
        what: &'static str,
        /// Its value as given.
        value: String,
        /// What it can be.
        allowed: String,
    },
    /// A score is infinite or outside the bounds, which are `[0, 1]` by default.
    #[error(
        "scores[{index}] is {value}; a score is in [{}, {}], or NaN where it is missing",
        .bounds[0],
        .bounds[1]
    )]
    Score {
        /// Index into the scores.
        index: usize,
        /// The score as given.
        value: f64,
        /// Lowest and highest score.
        bounds: [f64; 2],
    },
    /// Bounds that are no range.
    #[error("bounds are [{}, {}]; they are two finite numbers, the lower one first", .0[0], .0[1])]
    Bounds([f64; 2]),
    /// Offsets do not start at 0, decrease, or do not end at the number of what they divide.
    #[error("{name}[{index}] is {value}; offsets start at 0, never decrease and end at {end}")]
    Offsets {
        /// `seg_off` or `group_off`.
        name: &'static str,
        /// Index of the first wrong offset.
        index: usize,
        /// The offset as given.
        value: usize,
        /// The last offset's only right value.
        end: usize,
    },
    /// An offset array is empty: even for nothing at all it holds one 0.
    #[error("{name} is empty; it holds one offset more than it has parts, the first being 0")]
    NoOffsets {
        /// `seg_off` or `group_off`.
        name: &'static str,
    },
    /// An outcome kind was given a rollout without exactly one score.
    #[error(
        "rollout {rollout} has {segments} segments; {kind} takes exactly one score per rollout \
         (delta, end, group and the other process kinds take one per segment)"
    )]
    NotOneSegment {
        /// Index of the rollout.
        rollout: usize,
        /// Its number of segments.
        segments: usize,
        /// Name of the kind.
        kind: &'static str,
    },
    /// `published` `group` divides by a width that was not given, or is 0.
    #[error(
        "compat \"published\" with kind \"group\" needs response_width, the padded width, >= 1"
    )]
    NoResponseWidth,
    /// A floor or a weight is negative, infinite or NaN.
    #[error("{name} is {value}; it is a finite number of at least 0")]
    Number {
        /// `std_floor` or `outcome_weight`.
        name: &'static str,
        /// The number as given.
        value: f64,
    },
    /// `overlong` has neither one entry per rollout nor none.
    #[error("overlong has {given} entries for {rollouts} rollouts; give one per rollout, or none")]
    Overlong {
        /// Its entries.
        given: usize,
        /// The rollouts of the batch.
        rollouts: usize,
    },
}

/// How scores become advantages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, EnumString, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case", parse_err_ty = Error, parse_err_fn = Kind::unknown)]
pub enum Kind {
    /// Outcome: `(s_i - mean) / (max(std, floor) + 1e-6)`, over the group, std with n - 1; 0 for one
    /// rollout.
    Grpo,
    /// Outcome: `s_i - mean` of the group.
    DrGrpo,
    /// Outcome: `s_i - mean of the others` of the group; 0 for one rollout.
    Rloo,
    /// Outcome: `s_i - mean` of the batch.
    Reinforce,
    /// Process: `A_1 = s_1 - s_T`, `A_t = s_t - s_{t-1}` (eq. 2, 5). They sum to 0.
    Delta,
    /// Process: `A_t = s_t - s_T` for `t < T`, `A_T = s_T` (eq. 4).
    End,
    /// Process: `A_t = s_t - b`, `b` the mean over the group's rollouts of their mean score (eq. 6).
    Group,
    /// Process: like `Group`, with the rollouts of the whole batch.
    Batch,
    /// Process: `A_t = s_t`.
    Raw,
    /// Process: 1 for each step before the first score below 0.75 (grade 4), -1 for that one, 0 for
    /// what follows it. After arXiv 2601.18984.
    FirstError,
    /// Process: `s_t`, standardised over all steps of the group, plus the weighted `Grpo` of the last
    /// scores. After arXiv 2605.17291.
    #[strum(serialize = "step+outcome")]
    StepOutcome,
}

impl Kind {
    /// The name in configurations.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.into()
    }

    fn unknown(name: &str) -> Error {
        unknown::<Self>("kind", name)
    }
}

/// What `delta` gives a rollout of one segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, EnumString, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case", parse_err_ty = Error, parse_err_fn = SingleSegment::unknown)]
pub enum SingleSegment {
    /// The equation: `s_1 - s_1 = 0`.
    #[default]
    Zero,
    /// `s_1`, as the published code does.
    Score,
    /// `s_1 - mean` of the group's final scores.
    Group,
}

impl SingleSegment {
    fn unknown(name: &str) -> Error {
        unknown::<Self>("single_segment", name)
    }
}

fn unknown<T: VariantArray + Copy + Into<&'static str>>(what: &'static str, value: &str) -> Error {
    let allowed: Vec<&str> = T::VARIANTS.iter().map(|&variant| variant.into()).collect();
    Error::UnknownName {
        what,
        value: value.to_owned(),
        allowed: allowed.join(", "),
    }
}

/// Reproduces the published code where it differs from the paper's equations: `delta` gives a
/// single segment `s_1`, `end` gives the last segment 0, `group` divides its baseline by the padded
/// response width, and nothing has a floor under its spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    /// Padded width of the response tensor in tokens; `group` needs it.
    pub response_width: Option<usize>,
}

/// The whole choice.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// The equation.
    pub kind: Kind,
    /// For `delta` only.
    pub single_segment: SingleSegment,
    /// `None` is the paper.
    pub published: Option<Published>,
    /// Smallest spread that `grpo` and `step+outcome` divide by, in scores; `published` has none.
    pub std_floor: f64,
    /// For `step+outcome` only: the weight of its outcome part.
    pub outcome_weight: f64,
    /// Lowest and highest score that there can be: a score outside is an error.
    pub bounds: [f64; 2],
}

/// The bounds of scores that nobody corrected.
pub const BOUNDS: [f64; 2] = [0.0, 1.0];

/// A batch of R rollouts in groups, each rollout in segments.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// `[S]`, NaN where missing.
    pub scores: &'a [f64],
    /// `[R + 1]`: rollout `r` has the scores `seg_off[r]..seg_off[r + 1]`.
    pub seg_off: &'a [usize],
    /// `[G + 1]`: group `g` has the rollouts `group_off[g]..group_off[g + 1]`.
    pub group_off: &'a [usize],
    /// `[R]`, or empty where none is: which rollouts were cut by length. Read by `published` `end`.
    pub overlong: &'a [bool],
}

/// One advantage per score, `[S]`; NaN for every segment of a rollout that is out.
pub fn advantages(batch: Batch<'_>, settings: Settings) -> Result<Vec<f64>, Error> {
    settings.check()?;
    batch.check(settings.bounds)?;
    let mut advantages = vec![f64::NAN; batch.scores.len()];
    match settings.kind {
        kind @ (Kind::Grpo | Kind::DrGrpo | Kind::Rloo | Kind::Reinforce) => {
            outcome::fill(batch, kind, settings.floor(), &mut advantages)?;
        }
        Kind::Delta => process::delta(batch, settings, &mut advantages),
        Kind::End => process::end(batch, settings.published.is_some(), &mut advantages),
        Kind::Group => process::group(batch, settings.published, &mut advantages)?,
        Kind::Batch => process::batch(batch, &mut advantages),
        Kind::Raw => process::raw(batch, &mut advantages),
        Kind::FirstError => process::first_error(batch, &mut advantages),
        Kind::StepOutcome => process::step_outcome(batch, settings, &mut advantages),
    }
    Ok(advantages)
}

impl Settings {
    fn check(&self) -> Result<(), Error> {
        for (name, value) in [
            ("std_floor", self.std_floor),
            ("outcome_weight", self.outcome_weight),
        ] {
            if !value.is_finite() || value < 0.0 {
                return Err(Error::Number { name, value });
            }
        }
        let [low, high] = self.bounds;
        if !(low.is_finite() && high.is_finite() && low < high) {
            return Err(Error::Bounds(self.bounds));
        }
        Ok(())
    }

    fn floor(&self) -> f64 {
        match self.published {
            Some(_) => 0.0,
            None => self.std_floor,
        }
    }
}

impl Batch<'_> {
    fn check(&self, bounds: [f64; 2]) -> Result<(), Error> {
        let outside = |score: &f64| !score.is_nan() && !(bounds[0]..=bounds[1]).contains(score);
        if let Some(index) = self.scores.iter().position(outside) {
            return Err(Error::Score {
                index,
                value: self.scores[index],
                bounds,
            });
        }
        check_offsets("seg_off", self.seg_off, self.scores.len())?;
        let rollouts = self.seg_off.len() - 1;
        check_offsets("group_off", self.group_off, rollouts)?;
        if !self.overlong.is_empty() && self.overlong.len() != rollouts {
            let given = self.overlong.len();
            return Err(Error::Overlong { given, rollouts });
        }
        Ok(())
    }

    fn groups(&self) -> impl Iterator<Item = Range<usize>> {
        self.group_off.windows(2).map(|bounds| bounds[0]..bounds[1])
    }

    /// The segments of the valid rollouts among these.
    fn valid(&self, rollouts: Range<usize>) -> impl Iterator<Item = Range<usize>> + Clone {
        rollouts
            .map(|rollout| self.seg_off[rollout]..self.seg_off[rollout + 1])
            .filter(|segments| {
                !segments.is_empty() && self.scores[segments.clone()].iter().all(|s| !s.is_nan())
            })
    }
}

fn check_offsets(name: &'static str, offsets: &[usize], end: usize) -> Result<(), Error> {
    let (Some(&first), Some(&last)) = (offsets.first(), offsets.last()) else {
        return Err(Error::NoOffsets { name });
    };
    let wrong = if first == 0 {
        let decrease = offsets
            .windows(2)
            .position(|pair| pair[1] < pair[0])
            .map(|index| index + 1);
        decrease.or((last != end).then_some(offsets.len() - 1))
    } else {
        Some(0)
    };
    match wrong {
        Some(index) => Err(Error::Offsets {
            name,
            index,
            value: offsets[index],
            end,
        }),
        None => Ok(()),
    }
}

/// Keeps a division finite where all scores of a group are equal and there is no floor.
const STD_EPSILON: f64 = 1e-6;

/// What turns a distance from `mean` into standard deviations (n - 1), of at least `floor`; 0 for
/// fewer than two numbers, which have no spread.
fn inverse_spread(numbers: impl Iterator<Item = f64> + Clone, mean: f64, floor: f64) -> f64 {
    let (squares, count) = numbers.fold((0.0, 0_u32), |(squares, count), number| {
        (squares + (number - mean).powi(2), count + 1)
    });
    if count < 2 {
        return 0.0;
    }
    let std = (squares / (f64::from(count) - 1.0)).sqrt();
    1.0 / (std.max(floor) + STD_EPSILON)
}

/// The mean, computed as a distance from the first number so that equal numbers have it exactly.
/// NaN for no numbers: then no advantage is computed from it.
fn mean(numbers: impl Iterator<Item = f64> + Clone) -> f64 {
    let Some(first) = numbers.clone().next() else {
        return f64::NAN;
    };
    let (sum, count) = numbers.fold((0.0, 0_u32), |(sum, count), number| {
        (sum + (number - first), count + 1)
    });
    first + sum / f64::from(count)
}
