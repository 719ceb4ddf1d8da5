//! Linux's figures and ours, side by side.

use super::figures::Figures;
use super::measured::Measured;
use serde::Serialize;

/// A case: Linux's figures and ours.
#[derive(Clone, Debug)]
pub struct Row {
    /// Linux's.
    pub linux: Figures,
    /// Ours.
    pub unmap: Option<Measured>,
    pub park: Option<Measured>,
    pub keep: Option<Measured>,
}

/// What `--json` writes of a row.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Json<'a> {
    case: &'a str,
    linux_single: Option<u64>,
    linux_multi: Option<u64>,
    linux_net: Option<u64>,
    unmap: Option<u64>,
    unmap_net: Option<u64>,
    park: Option<u64>,
    keep: Option<u64>,
    passed: Option<u64>,
    failed: Option<u64>,
    xfailed: Option<u64>,
}

impl Row {
    /// As programs read it.
    pub fn json(&self) -> Json<'_> {
        let runs = |n: usize| self.unmap.as_ref().map(|of| of.results[n]);
        let gross = |of: &Option<Measured>| of.as_ref().map(|of| whole(of.gross));
        Json {
            case: &self.linux.case,
            linux_single: self.linux.single,
            linux_multi: self.linux.multi,
            linux_net: self.linux.net(),
            unmap: gross(&self.unmap),
            unmap_net: self.net(),
            park: gross(&self.park),
            keep: gross(&self.keep),
            passed: runs(0),
            failed: runs(1),
            xfailed: runs(2),
        }
    }

    /// Ours under Unmap, without clearing pages.
    pub fn net(&self) -> Option<u64> {
        self.unmap.as_ref().map(|of| whole(of.net()))
    }

    /// How often ours goes into Linux's, net.
    pub fn ratio(&self) -> Option<f64> {
        Some(self.linux.net()? as f64 / self.unmap.as_ref()?.net())
    }

    /// Whether ours takes more than a third.
    pub fn misses_bar(&self) -> bool {
        self.net().zip(self.linux.bar()).is_some_and(|(ours, bar)| ours > bar)
    }

    /// Whether ours takes more than we aim at.
    pub fn misses_goal(&self) -> bool {
        self.net().zip(self.linux.goal).is_some_and(|(ours, goal)| ours > goal)
    }
}

/// Instructions are whole.
pub fn whole(figure: f64) -> u64 {
    figure.round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(net: f64) -> Row {
        let linux =
            Figures { case: "fix_align".into(), single: Some(9000), multi: Some(6605), cleared: 5.0, goal: Some(650) };
        let unmap = Measured { gross: net + 2600.0, zeroing: 2600.0, results: [3, 0, 0], ..Measured::default() };
        Row { linux, unmap: Some(unmap), park: None, keep: None }
    }

    #[test]
    fn a_row_is_written_with_exactly_these_names() {
        let text = serde_json::to_string(&row(800.4).json()).unwrap();
        let expected = r#"{"case":"fix_align","linux_single":9000,"linux_multi":6605,"linux_net":4000,"unmap":3400,"unmap_net":800,"park":null,"keep":null,"passed":3,"failed":0,"xfailed":0}"#;
        assert_eq!(text, expected);
    }

    #[test]
    fn the_bar_is_a_third_of_linuxs_lower_figure_net() {
        assert!(!row(1333.0).misses_bar() && row(1334.0).misses_bar());
        assert!(!row(650.0).misses_goal() && row(651.0).misses_goal());
        assert_eq!(row(1000.0).ratio(), Some(4.0));
    }

    #[test]
    fn what_was_not_measured_misses_nothing() {
        let mut row = row(1e9);
        row.unmap = None;
        assert!(!row.misses_bar() && !row.misses_goal());
        assert_eq!((row.net(), row.ratio()), (None, None));
    }
}
