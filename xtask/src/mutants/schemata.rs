//! Writes all changes of a file into its text at once, each behind a choice
//! made at run time.
//!
//! ```text
//!   a + 1 < b   becomes   (if is(0) { (a + 1) <= (b) } else { (if is(1) { … } else { … }) < b })
//! ```
//!
//! Only one change is chosen at a time, so the changed text needs no choices
//! inside, and a file grows by its depth, not by the power of it.

use super::sites::{Edit, Form};
use std::ops::Range;

/// A file with its choices.
pub struct Schemata {
    /// What is compiled.
    pub text: String,
    /// Which bytes of it are there because of which changes.
    owners: Vec<(Range<usize>, Vec<usize>)>,
}

impl Schemata {
    /// The text `source` with these changes, each with its number.
    pub fn write(source: &str, edits: &[(usize, &Edit)]) -> Schemata {
        let mut edits = edits.to_vec();
        let inserted_first = |edit: &Edit| edit.form != Form::Insertion;
        edits.sort_by_key(|&(number, edit)| (edit.at.start, inserted_first(edit), usize::MAX - edit.at.end, number));
        let mut writer = Writer { source, edits: &edits, out: Schemata { text: String::new(), owners: Vec::new() } };
        writer.copy(0..source.len());
        writer.out
    }

    /// The changes to leave out so that a complaint about `place` goes away:
    /// those of the smallest piece that has it inside.
    pub fn blamed(&self, place: Range<usize>) -> &[usize] {
        let around = self.owners.iter().filter(|(range, _)| range.start <= place.start && place.end <= range.end);
        around.min_by_key(|(range, _)| range.len()).map_or(&[], |(_, numbers)| numbers)
    }
}

struct Writer<'a> {
    source: &'a str,
    /// Those that are not written yet.
    edits: &'a [(usize, &'a Edit)],
    out: Schemata,
}

impl Writer<'_> {
    /// Copies a piece of the source, with the changes in it.
    fn copy(&mut self, range: Range<usize>) {
        let mut at = range.start;
        while let Some(&(number, edit)) = self.edits.first().filter(|(_, edit)| edit.at.end <= range.end) {
            self.out.text += &self.source[at..edit.at.start];
            at = edit.at.end;
            match edit.form {
                Form::Insertion => self.insert(number, edit),
                Form::Value | Form::Statement => self.choose(edit),
            }
        }
        self.out.text += &self.source[at..range.end];
    }

    fn insert(&mut self, number: usize, edit: &Edit) {
        self.edits = &self.edits[1..];
        let text = edit.text.replace('@', &is(number));
        self.owned(vec![number], |writer| writer.out.text += &text);
    }

    /// All changes of one piece, and at last the piece itself.
    fn choose(&mut self, first: &Edit) {
        let same = self.edits.iter().take_while(|(_, edit)| edit.at == first.at && edit.form == first.form).count();
        let (chosen, rest) = self.edits.split_at(same);
        self.edits = rest;
        let value = first.form == Form::Value;
        self.owned(chosen.iter().map(|&(number, _)| number).collect(), |writer| {
            writer.out.text += if value { "(" } else { "" };
            for &(number, edit) in chosen {
                writer.out.text += &format!("if {} {{ ", is(number));
                writer.owned(vec![number], |writer| writer.out.text += &edit.text);
                writer.out.text += " } else ";
            }
            writer.out.text += "{ ";
            writer.copy(first.at.clone());
            writer.out.text += if value { " })" } else { " }" };
        });
    }

    fn owned(&mut self, numbers: Vec<usize>, write: impl FnOnce(&mut Self)) {
        let start = self.out.text.len();
        write(self);
        self.out.owners.push((start..self.out.text.len(), numbers));
    }
}

fn is(number: usize) -> String {
    format!("crate::mutant::is({number})")
}

/// The module `mutant` of the copy: which change is chosen, told by the
/// environment and read once.
pub const CHOICE: &str = r#"//! Which change is chosen.
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

const UNREAD: u32 = u32::MAX;
const NONE: u32 = UNREAD - 1;
static CHOSEN: AtomicU32 = AtomicU32::new(UNREAD);

/// Whether it is this one.
#[inline]
pub fn is(number: u32) -> bool {
    match CHOSEN.load(Relaxed) {
        UNREAD => read() == number,
        chosen => chosen == number,
    }
}

#[cold]
#[inline(never)]
fn read() -> u32 {
    let told = std::env::var("VMALLOC_MUTANT").ok();
    let chosen = told.map_or(NONE, |text| text.parse().expect("VMALLOC_MUTANT is a number"));
    CHOSEN.store(chosen, Relaxed);
    chosen
}
"#;

#[cfg(test)]
mod tests {
    use super::super::sites::sites;
    use super::*;

    fn written(source: &str) -> Schemata {
        let sites = sites("a.rs", source).unwrap();
        let edits: Vec<(usize, &Edit)> = sites.iter().map(|site| &site.edit).enumerate().collect();
        Schemata::write(source, &edits)
    }

    fn text(source: &str) -> String {
        written(source).text.replace("crate::mutant::", "")
    }

    #[test]
    fn a_choice_holds_the_change_and_what_was_there() {
        assert_eq!(text("fn f() -> T { a < b }"), "fn f() -> T { (if is(0) { (a) <= (b) } else { a < b }) }");
    }

    #[test]
    fn choices_nest_and_the_changed_text_has_none() {
        assert_eq!(
            text("fn f() -> T { a + 1 < b }"),
            "fn f() -> T { (if is(1) { (a + 1) <= (b) } else { \
             (if is(0) { (a) - (1) } else { a + (if is(2) { 1 + 1 } else { 1 }) }) < b }) }"
        );
    }

    #[test]
    fn several_changes_of_a_piece_are_one_chain() {
        assert_eq!(
            text("fn f() -> T { if a() { b } }"),
            "fn f() -> T { if (if is(0) { false } else if is(1) { true } else if is(2) { !(a()) } else { a() }) { b } }"
        );
    }

    #[test]
    fn statements_arms_bodies_and_bindings_have_forms_of_their_own() {
        assert_eq!(text("fn f() { a(); }"), "fn f() { if is(0) { return; } if is(1) {  } else { a(); } }");
        assert_eq!(
            text("fn f() -> T { match a { A => b, _ => c } }"),
            "fn f() -> T { match a { A if !is(0) => b, _ => c } }"
        );
        assert_eq!(text("fn f() -> T { if let A = b { c } }"), "fn f() -> T { if !is(0) && let A = b { c } }");
    }

    #[test]
    fn what_is_written_parses() {
        let written = written(
            "impl A { fn f(&self) -> bool { if let A = b && c(1) { a.b(); } match x { Y if z => 1 << 2, _ => 3 }; !d } }",
        );
        assert!(syn::parse_file(&written.text).is_ok(), "{}", written.text);
    }

    #[test]
    fn the_smallest_piece_around_a_complaint_is_blamed() {
        let written = written("fn f() -> T { a + b < c }");
        let at = |piece: &str| written.text.find(piece).map(|at| at..at + piece.len()).unwrap();
        assert_eq!(written.blamed(at("(a) - (b)")), [0]);
        assert_eq!(written.blamed(at("(a + b) <= (c)")), [1]);
        assert_eq!(written.blamed(at(" < c")), [1]);
        assert_eq!(written.blamed(at("fn f()")), [0; 0]);
    }

    #[test]
    fn the_module_of_the_choice_parses() {
        assert!(syn::parse_file(CHOICE).is_ok());
    }
}
