//! The files of the project, read and parsed once for all checks.

use super::{Finding, modules};
use crate::project::{Project, Target};
use anyhow::{Context, Result};
use proc_macro2::TokenStream;
use std::collections::BTreeMap;
use std::path::Path;
use walkdir::{DirEntry, WalkDir};

/// A text file.
pub struct Text {
    /// From the project's folder, with `/`.
    pub path: String,
    /// What is in it.
    pub text: String,
}

/// A Rust file, and the place that its crate gives it.
pub struct Source {
    /// From the project's folder, with `/`.
    pub path: String,
    /// The lines, to look for comments.
    pub lines: Vec<String>,
    /// Its items.
    pub ast: syn::File,
    /// Its tokens, those of macros among them.
    pub tokens: TokenStream,
    /// Its module in the crate; none for a crate's root.
    pub module: Vec<String>,
    /// Compiled only for tests, examples and benches.
    pub test: bool,
}

/// All files.
pub struct Tree {
    /// Every file that is text.
    pub texts: Vec<Text>,
    /// The Rust files that a crate reaches.
    pub sources: Vec<Source>,
    /// The Rust files that none reaches.
    pub dead: Vec<String>,
    /// The Rust files that do not parse.
    pub broken: Vec<Finding>,
}

impl Tree {
    /// The files in the project's folder.
    pub fn read(project: &Project) -> Result<Tree> {
        let mut texts = Vec::new();
        for entry in WalkDir::new(&project.root).sort_by_file_name().into_iter().filter_entry(ours) {
            let entry = entry?;
            // A link to a licence is a file like any other.
            if entry.path().is_file()
                && let Some(text) = text_of(entry.path())?
            {
                let path = entry.path().strip_prefix(&project.root)?.to_string_lossy().replace('\\', "/");
                texts.push(Text { path, text });
            }
        }
        Ok(Tree::new(texts, &project.targets))
    }

    /// These files, with the crates that `targets` are the roots of.
    pub fn new(texts: Vec<Text>, targets: &[Target]) -> Tree {
        let mut tree = Tree { texts: Vec::new(), sources: Vec::new(), dead: Vec::new(), broken: Vec::new() };
        let mut parsed = BTreeMap::new();
        for Text { path, text } in texts.iter().filter(|file| file.path.ends_with(".rs")) {
            match parse(text) {
                Ok(both) => drop(parsed.insert(path.as_str(), both)),
                Err(why) => {
                    let line = why.span().start().line;
                    tree.broken.push(Finding::new(path, line, format!("does not parse: {why}")));
                }
            }
        }
        let mut places = modules::places(&parsed, targets);
        for (path, (ast, tokens)) in parsed {
            let Some(place) = places.remove(path) else {
                tree.dead.push(path.to_owned());
                continue;
            };
            let lines = text(&texts, path).lines().map(str::to_owned).collect();
            let (module, test) = (place.module, place.test);
            tree.sources.push(Source { path: path.to_owned(), lines, ast, tokens, module, test });
        }
        tree.texts = texts;
        tree
    }

    /// A tree for a test; a `lib.rs`, and what is in a folder `tests`, is a
    /// crate's root.
    #[cfg(test)]
    pub fn of(files: &[(&str, &str)]) -> Tree {
        let texts = files.iter().map(|(path, text)| Text { path: (*path).into(), text: (*text).into() }).collect();
        let root = |path: &str| {
            let kind = match path {
                _ if path.ends_with("lib.rs") => "lib",
                _ if path.contains("/tests/") => "test",
                _ => return None,
            };
            Some(Target { package: "p".into(), name: "t".into(), kind: kind.into(), path: path.into() })
        };
        let targets: Vec<Target> = files.iter().filter_map(|(path, _)| root(path)).collect();
        Tree::new(texts, &targets)
    }
}

fn text<'a>(texts: &'a [Text], path: &str) -> &'a str {
    texts.iter().find(|file| file.path == path).map_or("", |file| &file.text)
}

fn parse(text: &str) -> syn::Result<(syn::File, TokenStream)> {
    Ok((syn::parse_file(text)?, text.parse()?))
}

/// Not git's, and not what cargo made.
fn ours(entry: &DirEntry) -> bool {
    let name = entry.file_name();
    name != ".git" && !(entry.depth() == 1 && name == "target")
}

fn text_of(path: &Path) -> Result<Option<String>> {
    let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
    Ok(String::from_utf8(bytes).ok().filter(|text| !text.contains('\0')))
}
