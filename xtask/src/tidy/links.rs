//! A link of a page leads to a file, and to a heading where it names one.
//!
//! Looked at are links and pictures outside of code, `[text](place)` and `[text]: place`, in every `.md`
//! file. Places with a scheme (`https:`) are left alone. A file is one that is text.

use super::Finding;
use super::tree::{Text, Tree};
use std::collections::BTreeSet;

/// Links to what is not there.
pub fn check(tree: &Tree) -> Vec<Finding> {
    let files: BTreeSet<&str> = tree.texts.iter().map(|file| file.path.as_str()).collect();
    tree.texts.iter().filter(|page| page.path.ends_with(".md")).flat_map(|page| broken(page, tree, &files)).collect()
}

fn broken(page: &Text, tree: &Tree, files: &BTreeSet<&str>) -> Vec<Finding> {
    let is_broken = |&(_, place): &(usize, &str)| {
        let (path, heading) = place.split_once('#').map_or((place, None), |(path, heading)| (path, Some(heading)));
        let Some(target) = resolve(&page.path, path) else { return true };
        let is_there = files.contains(target.as_str()) || files.iter().any(|file| is_below(file, &target));
        let has = |heading| tree.texts.iter().any(|file| file.path == target && headings(&file.text).contains(heading));
        !(is_there && heading.is_none_or(has))
    };
    let told = |(line, place)| Finding::new(&page.path, line, format!("links to {place}, which is not there"));
    links(&page.text).into_iter().filter(is_broken).map(told).collect()
}

fn is_below(file: &str, folder: &str) -> bool {
    file.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'))
}

/// The file that `path` means on `page`; an empty one is the page itself. `None` for one outside of the project.
fn resolve(page: &str, path: &str) -> Option<String> {
    if path.is_empty() {
        return Some(page.to_owned());
    }
    let mut parts: Vec<&str> = page.split('/').collect();
    parts.pop();
    for part in path.trim_end_matches('/').split('/') {
        match part {
            "." => {}
            ".." => drop(parts.pop()?),
            name => parts.push(name),
        }
    }
    Some(parts.join("/"))
}

/// Relative links, each with its line.
fn links(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    for (at, line) in prose(text) {
        let inline = line.match_indices("](").filter_map(|(from, _)| line[from + 2..].split(')').next());
        let defined = line.starts_with('[').then(|| line.split_once("]: ").map(|(_, place)| place.trim())).flatten();
        found.extend(inline.chain(defined).filter(|place| !place.contains(':')).map(|place| (at, place)));
    }
    found
}

/// The lines outside of fenced and indented code, from 1.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut fenced = false;
    text.lines().enumerate().filter_map(move |(at, line)| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        (!fence && !fenced && !line.starts_with("    ")).then_some((at + 1, line))
    })
}

/// The names by which headings can be linked to: small letters, digits, `-` and `_`.
fn headings(text: &str) -> BTreeSet<String> {
    let name = |title: &str| {
        let kept = title.trim().chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        kept.flat_map(char::to_lowercase).map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    let titles = prose(text).filter(|(_, line)| line.starts_with('#'));
    titles.map(|(_, line)| name(line.trim_start_matches('#'))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The links of a page that lead nowhere.
    fn broken_of(page: &str) -> Vec<String> {
        let others =
            [("a/docs/page.md", page), ("a/src/lib.rs", ""), ("b.md", "# The `kick`, and how\n\n    # no heading")];
        let between = |what: String| what.split(' ').nth(2).map(|place| place.trim_end_matches(',').to_owned());
        check(&Tree::of(&others)).into_iter().filter_map(|finding| between(finding.what)).collect()
    }

    #[test]
    fn a_link_is_a_file_or_a_folder_from_its_page_on() {
        assert_eq!(
            broken_of("[x](../src/lib.rs) [y](../../b.md) ![z](../src/) [w](page.md)\n\n[v]: ../src/lib.rs"),
            [""; 0]
        );
        assert_eq!(
            broken_of("[x](../lib.rs) [y](b.md) [w](../../../b.md)\n\n[v]: src/lib.rs"),
            ["../lib.rs", "b.md", "../../../b.md", "src/lib.rs"]
        );
    }

    #[test]
    fn a_heading_is_linked_to_by_its_small_letters() {
        assert_eq!(broken_of("## One two\n\n[x](#one-two) [y](../../b.md#the-kick-and-how)"), [""; 0]);
        assert_eq!(broken_of("[x](#one) [y](../../b.md#no-heading)"), ["#one", "../../b.md#no-heading"]);
    }

    #[test]
    fn other_sites_and_code_are_left_alone() {
        assert_eq!(broken_of("[x](https://example.org/y)\n```text\n[x](gone)\n```\n    [x](gone)"), [""; 0]);
    }

    #[test]
    fn a_finding_has_its_line() {
        let tree = Tree::of(&[("README.md", "fine\n\n[x](gone)")]);
        assert_eq!(check(&tree), [Finding::new("README.md", 3, "links to gone, which is not there")]);
    }
}
