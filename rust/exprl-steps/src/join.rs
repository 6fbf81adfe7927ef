//! Neighbouring steps made one, so that a judge is asked less often.

/// Joins every step below `min_size` to the next one; the last, which has none, to the one before.
///
/// `starts` ascend and begin with 0; `size` measures the steps from one start to another.
pub(crate) fn join_short(
    starts: &[usize],
    end: usize,
    size: impl Fn(usize, usize) -> usize,
    min_size: usize,
) -> Vec<usize> {
    let ends = starts[1..].iter().copied().chain([end]);
    let (mut joined, mut first, mut so_far) = (Vec::new(), 0, 0);
    for (&start, end) in starts.iter().zip(ends) {
        so_far += size(start, end);
        if so_far >= min_size {
            joined.push(first);
            (first, so_far) = (end, 0);
        }
    }
    if joined.is_empty() {
        joined.push(0);
    }
    joined
}

/// Joins neighbours so that at most `max_steps` are left, each of as many steps as the others or of
/// one more; the larger ones come first.
pub(crate) fn join_to_at_most(starts: &[usize], max_steps: usize) -> Vec<usize> {
    let count = starts.len().min(max_steps);
    let (each, larger) = (starts.len() / count, starts.len() % count);
    (0..count)
        .map(|step| starts[step * each + step.min(larger)])
        .collect()
}
