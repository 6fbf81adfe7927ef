//! One score per segment: `delta`, `end`, `group`.

use crate::{Batch, Error, Published, Settings, SingleSegment, mean};

pub(crate) fn delta(batch: Batch<'_>, settings: Settings, advantages: &mut [f64]) {
    let single_segment = match settings.published {
        Some(_) => SingleSegment::Score,
        None => settings.single_segment,
    };
    for group in batch.groups() {
        let finals = batch
            .valid(group.clone())
            .map(|segments| batch.scores[segments.end - 1]);
        let mean_final = mean(finals);
        for segments in batch.valid(group) {
            let scores = &batch.scores[segments.clone()];
            let advantages = &mut advantages[segments];
            if let [score] = scores {
                advantages[0] = match single_segment {
                    SingleSegment::Zero => 0.0,
                    SingleSegment::Score => *score,
                    SingleSegment::Group => score - mean_final,
                };
                continue;
            }
            advantages[0] = scores[0] - scores[scores.len() - 1];
            for (advantage, pair) in advantages[1..].iter_mut().zip(scores.windows(2)) {
                *advantage = pair[1] - pair[0];
            }
        }
    }
}

pub(crate) fn end(batch: Batch<'_>, advantages: &mut [f64]) {
    for segments in batch.valid(0..batch.seg_off.len() - 1) {
        let last = segments.end - 1;
        let final_score = batch.scores[last];
        for index in segments {
            advantages[index] = batch.scores[index] - final_score;
        }
        advantages[last] = final_score;
    }
}

pub(crate) fn group(
    batch: Batch<'_>,
    published: Option<Published>,
    advantages: &mut [f64],
) -> Result<(), Error> {
    let divisor = match published {
        None => 1,
        Some(Published { response_width }) => response_width
            .filter(|&width| width > 0)
            .ok_or(Error::NoResponseWidth)?,
    };
    for group in batch.groups() {
        let means = batch
            .valid(group.clone())
            .map(|segments| mean(batch.scores[segments].iter().copied()));
        let baseline = mean(means) / divisor as f64;
        for index in batch.valid(group).flatten() {
            advantages[index] = batch.scores[index] - baseline;
        }
    }
    Ok(())
}
