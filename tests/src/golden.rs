//! Golden files: input and expected output stand in one file.
//!
//! ```text
//! // What the case is about.
//! === input
//! ...
//! === expect verify
//! ...
//! ```
//!
//! A section whose name starts with `expect` is compared with what the test produces under that name; all others are
//! inputs. With `KILN_BLESS=1` in the environment the expected sections are rewritten instead.

use std::fs;
use std::path::{Path, PathBuf};

/// One golden file.
pub struct Case {
    /// The file.
    pub path: PathBuf,
    /// Text before the first section.
    head: String,
    sections: Vec<(String, String)>,
}

impl Case {
    fn read(path: PathBuf) -> Self {
        let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let mut head = String::new();
        let mut sections: Vec<(String, String)> = vec![];
        for line in text.lines() {
            if let Some(name) = line.strip_prefix("=== ") {
                sections.push((name.trim().to_owned(), String::new()));
                continue;
            }
            let body = sections.last_mut().map_or(&mut head, |(_, body)| body);
            body.push_str(line);
            body.push('\n');
        }
        Case { path, head, sections }
    }

    /// The section of that name, if the file has it.
    pub fn section(&self, name: &str) -> Option<&str> {
        self.sections.iter().find(|(n, _)| n == name).map(|(_, body)| body.as_str())
    }

    /// The section `input`.
    ///
    /// # Panics
    /// If the file has none.
    pub fn input(&self) -> &str {
        self.section("input").unwrap_or_else(|| panic!("{}: no section `input`", self.path.display()))
    }

    /// The sections that are inputs: name and text.
    pub fn inputs(&self) -> impl Iterator<Item = &(String, String)> {
        self.sections.iter().filter(|(n, _)| !n.starts_with("expect"))
    }

    fn bless(&self, produced: &[(String, String)]) {
        let mut out = self.head.clone();
        let expectation =
            |(name, body): &(String, String)| format!("=== expect {name}\n{}\n", body.trim_end());
        for (name, body) in self.inputs() {
            out.push_str(&format!("=== {name}\n{body}"));
            // An expectation named as an input follows it.
            out.extend(produced.iter().filter(|(n, _)| n == name).map(expectation));
        }
        let named = |n: &String| self.inputs().any(|(name, _)| name == n);
        out.extend(produced.iter().filter(|(n, _)| !named(n)).map(expectation));
        fs::write(&self.path, out).unwrap_or_else(|e| panic!("{}: {e}", self.path.display()));
    }

    /// What differs, for people.
    fn differences(&self, produced: &[(String, String)]) -> Vec<String> {
        let place = self.path.display();
        let mut found = vec![];
        for (name, body) in produced {
            match self.section(&format!("expect {name}")) {
                None => found.push(format!("{place}: no section `expect {name}`; produced:\n{body}")),
                Some(expected) if expected.trim_end() == body.trim_end() => {}
                Some(expected) => {
                    found.push(format!("{place}: `expect {name}`\n{}", first_difference(expected, body)));
                }
            }
        }
        let expected = self.sections.iter().filter_map(|(n, _)| n.strip_prefix("expect "));
        for name in expected.filter(|n| !produced.iter().any(|(p, _)| p == n)) {
            found.push(format!("{place}: `expect {name}` is not produced"));
        }
        found
    }
}

fn first_difference(expected: &str, actual: &str) -> String {
    let (e, a): (Vec<&str>, Vec<&str>) =
        (expected.trim_end().lines().collect(), actual.trim_end().lines().collect());
    let at = (0..e.len().max(a.len())).find(|&i| e.get(i) != a.get(i)).unwrap_or(0);
    let line = |l: &[&str]| l.get(at).copied().unwrap_or("(nothing)").to_owned();
    format!("  line {}\n  expected: {}\n  produced: {}\n--- produced\n{actual}", at + 1, line(&e), line(&a))
}

/// Runs `produce` on every `*.txt` file of a folder and compares what it gives, by section name, with the file's
/// `expect` sections.
///
/// # Panics
/// If something differs, or the folder has no case.
pub fn check(folder: impl AsRef<Path>, produce: impl Fn(&Case) -> Vec<(String, String)>) {
    let folder = folder.as_ref();
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut paths: Vec<PathBuf> = entries.map(|e| e.expect("a readable folder").path()).collect();
    paths.retain(|p| p.extension().is_some_and(|e| e == "txt"));
    paths.sort();
    assert!(!paths.is_empty(), "{}: no cases", folder.display());
    let bless = std::env::var_os("KILN_BLESS").is_some_and(|v| v == "1");
    let mut failures = vec![];
    for path in paths {
        let case = Case::read(path);
        let produced = produce(&case);
        if bless {
            case.bless(&produced);
        } else {
            failures.extend(case.differences(&produced));
        }
    }
    assert!(failures.is_empty(), "{}\n\nKILN_BLESS=1 accepts what is produced", failures.join("\n\n"));
}
