//! Medians and their confidence.

use std::fmt;

/// Values of one figure.
pub(super) struct Series {
    name: &'static str,
    unit: &'static str,
    values: Vec<f64>,
}

impl Series {
    pub(super) fn new(name: &'static str, unit: &'static str) -> Series {
        Series { name, unit, values: Vec::new() }
    }

    pub(super) fn push(&mut self, value: f64) {
        self.values.push(value);
    }

    fn sorted(&self) -> Vec<f64> {
        let mut values = self.values.clone();
        values.sort_by(f64::total_cmp);
        values
    }

    /// The median; 0 without values.
    pub(super) fn median(&self) -> f64 {
        let values = self.sorted();
        let middle = values.len() / 2;
        match values.len() {
            0 => 0.0,
            length if length % 2 == 1 => values[middle],
            _ => (values[middle - 1] + values[middle]) / 2.0,
        }
    }

    /// The value that a share of all values does not exceed; 0 without values.
    pub(super) fn percentile(&self, share: f64) -> f64 {
        let values = self.sorted();
        let Some(last) = values.len().checked_sub(1) else { return 0.0 };
        values[index((values.len() as f64 * share).ceil() - 1.0, last)]
    }

    /// The order statistics that hold the median with 95% confidence (normal approximation of the
    /// binomial: n/2 -+ 0.98 sqrt(n)); all values if there are few.
    fn interval(&self) -> (f64, f64) {
        let values = self.sorted();
        let Some(last) = values.len().checked_sub(1) else { return (0.0, 0.0) };
        let half = values.len() as f64 / 2.0;
        let reach = 0.98 * (values.len() as f64).sqrt();
        (values[index(half - reach, last)], values[index((half + reach).ceil(), last)])
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to the range")]
fn index(position: f64, last: usize) -> usize {
    (position.max(0.0) as usize).min(last)
}

impl fmt::Display for Series {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (low, high) = self.interval();
        let median = self.median();
        let (name, unit, runs) = (self.name, self.unit, self.values.len());
        write!(f, "  {name:<34} {median:>9.3} {unit:<8} [{low:.3} .. {high:.3}] of {runs}")
    }
}

/// A figure divided by its peer's of the same run.
pub(super) struct Ratio {
    what: &'static str,
    value: f64,
    /// The most that it may be.
    bound: Option<f64>,
}

impl Ratio {
    /// Divides the medians.
    pub(super) fn new(what: &'static str, figure: &Series, peer: &Series) -> Ratio {
        Ratio { what, value: figure.median() / peer.median(), bound: None }
    }

    /// A ratio that is known.
    pub(super) fn of(what: &'static str, value: f64) -> Ratio {
        Ratio { what, value, bound: None }
    }

    /// With a bound to keep.
    pub(super) fn at_most(self, bound: f64) -> Ratio {
        Ratio { bound: Some(bound), ..self }
    }

    /// Whether it keeps its bound, if it has one. What is no number keeps none.
    pub(super) fn holds(&self) -> bool {
        self.bound.is_none_or(|bound| self.value <= bound)
    }
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<60} {:>7.2}", self.what, self.value)?;
        match self.bound {
            Some(bound) if self.holds() => write!(f, "  PASS  at most {bound:.2}"),
            Some(bound) => write!(f, "  FAIL  at most {bound:.2}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_kept_or_not() {
        let ratio = |bound| Ratio::of("x", 1.1).at_most(bound);
        assert!(Ratio::of("x", 1.1).holds() && ratio(1.1).holds());
        assert!(!ratio(1.09).holds() && !ratio(f64::NAN).holds());
        assert!(ratio(1.09).to_string().contains("FAIL"));
    }

    #[test]
    fn medians_and_intervals() {
        let mut series = Series::new("x", "s");
        assert_eq!(series.median(), 0.0);
        for value in [5.0, 1.0, 9.0, 3.0] {
            series.push(value);
        }
        assert_eq!(series.median(), 4.0);
        assert_eq!(series.interval(), (1.0, 9.0));
        assert_eq!([0.0, 0.5, 0.75, 0.95].map(|p| series.percentile(p)), [1.0, 3.0, 5.0, 9.0]);
        for value in 0..96 {
            series.push(f64::from(value));
        }
        let (low, high) = series.interval();
        assert!(low < series.median() && series.median() < high && high - low < 25.0);
    }
}
