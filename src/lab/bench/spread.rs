//! Spread of a figure over several rounds: median, minimum and maximum. Pure.

use serde::Serialize;

/// Median, smallest and largest of some values.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// Half of the values are not above it.
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
}

impl Spread {
    /// The spread of `values`; `None` when there is none, or when one is not finite: a figure that
    /// is no number makes the whole row worthless.
    #[must_use]
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        if values.is_empty() || values.iter().any(|value| !value.is_finite()) {
            return None;
        }
        values.sort_by(f64::total_cmp);
        let (lower, upper) = (values[(values.len() - 1) / 2], values[values.len() / 2]);
        let (min, max) = (values[0], values[values.len() - 1]);
        Some(Self { median: f64::midpoint(lower, upper), min, max })
    }

    /// How far the extremes are apart, as a share of the median; 0 when they are equal.
    #[must_use]
    pub fn width(&self) -> f64 {
        let apart = self.max - self.min;
        if apart == 0.0 { 0.0 } else { apart / self.median.abs() }
    }
}

#[cfg(test)]
mod tests {
    use super::Spread;

    #[test]
    fn median_is_middle_value_or_mean_of_middle_two() {
        let of = |values: &[f64]| Spread::of(values.iter().copied()).map(|spread| spread.median);
        assert_eq!(of(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(of(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(of(&[7.0]), Some(7.0));
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[1.0, f64::NAN]), None);
        assert_eq!(of(&[1.0, f64::INFINITY]), None);
    }

    #[test]
    fn the_width_is_the_distance_of_the_extremes_in_medians() {
        let width = |values: &[f64]| Spread::of(values.iter().copied()).expect("values").width();
        assert!((width(&[8.0, 10.0, 13.0]) - 0.5).abs() < 1e-12);
        assert!(width(&[0.0, 0.0]).abs() < 1e-12);
    }
}
