//! Medians and spreads of a handful of rounds.

/// The middle of some figures, with the lowest and the highest.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

impl Spread {
    /// `None` where there are no figures.
    pub(crate) fn of(figures: &[f64]) -> Option<Self> {
        let mut sorted = figures.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (low, high) = (*sorted.first()?, *sorted.last()?);
        let upper = sorted[sorted.len() / 2];
        let median =
            if sorted.len().is_multiple_of(2) { (sorted[sorted.len() / 2 - 1] + upper) / 2.0 } else { upper };
        Some(Self { median, low, high })
    }
}

/// The slope of log cost over log size by least squares, from pairs of size and cost, all above zero: 0 where
/// the cost does not grow with the size, 1 where it grows in proportion.
pub(crate) fn growth(points: &[(f64, f64)]) -> f64 {
    let count = points.len() as f64;
    let logs = || points.iter().map(|(size, cost)| (size.ln(), cost.ln()));
    let (mean_size, mean_cost) =
        (logs().map(|(x, _)| x).sum::<f64>() / count, logs().map(|(_, y)| y).sum::<f64>() / count);
    let together: f64 = logs().map(|(x, y)| (x - mean_size) * (y - mean_cost)).sum();
    let alone: f64 = logs().map(|(x, _)| (x - mean_size).powi(2)).sum();
    together / alone
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_the_exponent_of_the_cost() {
        let of = |cost: fn(f64) -> f64| growth(&[1e3, 1e4, 1e5, 1e6].map(|size| (size, cost(size))));
        assert!(of(|_| 7.0).abs() < 1e-9);
        assert!((of(|size| 3.0 * size) - 1.0).abs() < 1e-9);
        assert!((of(f64::sqrt) - 0.5).abs() < 1e-9);
    }

    #[test]
    fn the_median_is_the_middle_or_the_mean_of_two() {
        let spread = |figures: &[f64]| Spread::of(figures).map(|s| (s.low, s.median, s.high));
        assert_eq!(spread(&[3.0, 1.0, 2.0]), Some((1.0, 2.0, 3.0)));
        assert_eq!(spread(&[4.0, 1.0, 2.0, 3.0]), Some((1.0, 2.5, 4.0)));
        assert_eq!(spread(&[7.0]), Some((7.0, 7.0, 7.0)));
        assert_eq!(spread(&[]), None);
    }
}
