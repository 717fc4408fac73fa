//! What became of each form of each model.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// How PyTorch saved a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    Traced,
    Scripted,
    Exported,
}

impl Form {
    pub const ALL: [Form; 3] = [Form::Traced, Form::Scripted, Form::Exported];

    /// The file that the script writes.
    pub fn file(self) -> &'static str {
        match self {
            Form::Traced => "traced.pt",
            Form::Scripted => "scripted.pt",
            Form::Exported => "exported.pt2",
        }
    }
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Form::Traced => "traced",
            Form::Scripted => "scripted",
            Form::Exported => "exported",
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It gives PyTorch's results.
    Agrees,
    /// It is not read, or not run, or gives others.
    Fails,
    /// PyTorch itself does not make it.
    Refused,
}

impl Verdict {
    /// What stands before the reason.
    pub fn prefix(self) -> &'static str {
        match self {
            Verdict::Agrees | Verdict::Fails => "",
            Verdict::Refused => "not counted: ",
        }
    }
}

/// The result for one form of one model.
#[derive(Clone, Serialize, Deserialize)]
pub struct Outcome {
    pub verdict: Verdict,
    pub difference: Option<f64>,
    pub reason: Option<String>,
    /// How long Kiln took.
    pub seconds: f64,
}

impl Outcome {
    /// Of a form that PyTorch does not make.
    pub fn refused(reason: String) -> Self {
        Outcome { verdict: Verdict::Refused, difference: None, reason: Some(reason), seconds: 0.0 }
    }
}

/// Outcomes by model (FAMILY/NAME) and form.
#[derive(Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Results(BTreeMap<String, BTreeMap<Form, Outcome>>);

impl Results {
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read(path).with_context(|| path.display().to_string())?;
        serde_json::from_slice(&text).with_context(|| path.display().to_string())
    }

    /// Writes these, and of `before` what these lack. The file is whole at any time.
    pub fn write(&self, path: &Path, before: &Results) -> Result<()> {
        let mut all = before.0.clone();
        for (name, forms) in &self.0 {
            all.entry(name.clone()).or_default().extend(forms.iter().map(|(f, o)| (*f, o.clone())));
        }
        let new = path.with_extension("new");
        fs::write(&new, serde_json::to_vec_pretty(&all)?).with_context(|| new.display().to_string())?;
        fs::rename(&new, path).with_context(|| path.display().to_string())
    }

    /// The outcomes of a model.
    pub fn of(&self, name: &str) -> Option<&BTreeMap<Form, Outcome>> {
        self.0.get(name)
    }

    pub fn add(&mut self, name: &str, form: Form, outcome: Outcome) {
        self.0.entry(name.to_owned()).or_default().insert(form, outcome);
    }

    /// How many agree, and how many there are that PyTorch makes.
    pub fn count(&self) -> (usize, usize) {
        let outcomes = || self.0.values().flat_map(BTreeMap::values);
        let agree = outcomes().filter(|o| o.verdict == Verdict::Agrees).count();
        (agree, outcomes().filter(|o| o.verdict != Verdict::Refused).count())
    }

    /// A line for each family and form.
    pub fn table(&self) -> String {
        let mut rows: BTreeMap<(&str, Form), [usize; 3]> = BTreeMap::new();
        for (name, forms) in &self.0 {
            let family = name.split('/').next().unwrap_or_default();
            for (form, outcome) in forms {
                let counts = rows.entry((family, *form)).or_default();
                counts[outcome.verdict as usize] += 1;
            }
        }
        let mut text = String::new();
        for ((family, form), [agree, fail, refused]) in rows {
            let of = agree + fail;
            // Writing to a string does not fail.
            _ = writeln!(text, "{family:14} {form:8} {agree:3} of {of:3}, {refused:3} not made by PyTorch");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_pytorch_does_not_make_is_not_counted() {
        let outcome = |verdict| Outcome { verdict, difference: None, reason: None, seconds: 0.0 };
        let mut results = Results::default();
        results.add("timm/a", Form::Traced, outcome(Verdict::Agrees));
        results.add("timm/b", Form::Traced, outcome(Verdict::Fails));
        results.add("timm/b", Form::Scripted, Outcome::refused("no".to_owned()));
        assert_eq!(results.count(), (1, 2));
        let table = results.table();
        assert_eq!(table.lines().count(), 2, "{table}");
        assert!(table.contains("traced     1 of   2,   0 not made"), "{table}");
        assert!(table.contains("scripted   0 of   0,   1 not made"), "{table}");
    }
}
