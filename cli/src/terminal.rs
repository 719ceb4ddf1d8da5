//! What the terminal can show: how wide a table may be, and which characters.

use rustix::stdio::stdout;
use rustix::termios::{isatty, tcgetwinsize};

/// What people read, where the locale has no other characters than ASCII's.
const PLAIN: [(&str, &str); 12] = [
    ("│", "|"),
    ("─", "-"),
    ("═", "="),
    ("╞", "+"),
    ("╡", "+"),
    ("┌", "+"),
    ("┐", "+"),
    ("└", "+"),
    ("┘", "+"),
    ("–", "-"),
    ("×", "x"),
    ("…", "..."),
];

/// Columns of stdout, if it is a terminal.
pub fn width() -> Option<u16> {
    let size = isatty(stdout()).then(|| tcgetwinsize(stdout()).ok()).flatten()?;
    (size.ws_col > 0).then_some(size.ws_col)
}

/// `text` as the locale can show it.
pub fn shown(text: &str) -> String {
    if asks_for_ascii(|name| std::env::var(name).ok()) { plain(text) } else { text.to_owned() }
}

fn plain(text: &str) -> String {
    PLAIN.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

/// Whether the first of the variables that say which characters there are says that there are ASCII's
/// alone. Where none is set nobody asks for that.
///
/// # Source
/// POSIX, Base Definitions 8.2: their order.
fn asks_for_ascii(variable: impl Fn(&str) -> Option<String>) -> bool {
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().filter_map(variable).find(|value| !value.is_empty());
    let is_wide = |locale: &str| ["utf-8", "utf8"].iter().any(|name| locale.to_lowercase().contains(name));
    locale.is_some_and(|locale| !is_wide(&locale))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(set: &[(&str, &str)]) -> bool {
        asks_for_ascii(|name| set.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn the_first_variable_that_is_set_says_which_characters_there_are() {
        assert!(!asked(&[]), "nobody asks");
        assert!(asked(&[("LC_ALL", "C"), ("LANG", "de_DE.UTF-8")]));
        assert!(asked(&[("LC_ALL", ""), ("LC_CTYPE", "POSIX")]));
        assert!(!asked(&[("LANG", "C.utf8")]) && !asked(&[("LC_ALL", "en_US.UTF-8"), ("LANG", "C")]));
        assert!(asked(&[("LANG", "de_DE.ISO-8859-1")]));
    }

    #[test]
    fn borders_and_signs_have_plain_ones() {
        assert_eq!(plain("┌─┐\n│–│\n╞═╡\n└─┘ 2× …"), "+-+\n|-|\n+=+\n+-+ 2x ...");
    }
}
