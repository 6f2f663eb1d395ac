//! Reads one setting at a time and collects all that is wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;

use secrecy::SecretString;
use warmspare_domain::ids::PathBelow;
use warmspare_domain::units::Seconds;

use super::{ApiToken, Config, ConfigError, Problem, Scope};

/// Ten years: no duration here is longer, and sums of two cannot overflow.
const LONGEST_SECONDS: u32 = 10 * 365 * 24 * 3600;

pub(super) struct Reader<'a> {
    settings: &'a BTreeMap<String, String>,
    asked: BTreeSet<String>,
    problems: Vec<Problem>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(settings: &'a BTreeMap<String, String>) -> Self {
        Self {
            settings,
            asked: BTreeSet::new(),
            problems: Vec::new(),
        }
    }

    pub(super) fn text(&mut self, name: &str) -> Option<&'a str> {
        self.asked.insert(name.to_owned());
        self.settings
            .get(name)
            .map(|text| text.trim())
            .filter(|text| !text.is_empty())
    }

    pub(super) fn wrong(&mut self, setting: &str, text: &str) {
        self.problems.push(Problem {
            setting: setting.to_owned(),
            text: text.to_owned(),
        });
    }

    pub(super) fn parsed<T: FromStr>(&mut self, name: &str, default: &str, fix: &str) -> T
    where
        T::Err: Display,
    {
        let fallback = || {
            default
                .parse()
                .unwrap_or_else(|error| unreachable!("the default of {name} parses: {error}"))
        };
        match self.text(name).map(str::parse) {
            None => fallback(),
            Some(Ok(value)) => value,
            Some(Err(error)) => {
                self.wrong(name, &format!("{error}; {fix}"));
                fallback()
            }
        }
    }

    pub(super) fn checked(&mut self, name: &str, default: &str, check: fn(&str) -> Result<(), String>) -> String {
        let text = self.text(name).unwrap_or(default);
        if let Err(fix) = check(text) {
            self.wrong(name, &format!("`{}` cannot be used: {fix}", text.escape_default()));
        }
        text.to_owned()
    }

    pub(super) fn required(&mut self, name: &str, what: &str) -> String {
        match self.text(name) {
            Some(text) => text.to_owned(),
            None => {
                self.wrong(name, &format!("missing: {what}"));
                String::new()
            }
        }
    }

    pub(super) fn bounded<T>(&mut self, name: &str, default: T, range: RangeInclusive<T>) -> T
    where
        T: FromStr + PartialOrd + Display + Copy,
    {
        let Some(text) = self.text(name) else { return default };
        match text.parse::<T>().ok().filter(|number| range.contains(number)) {
            Some(number) => number,
            None => {
                self.wrong(
                    name,
                    &format!(
                        "`{}` is not a whole number from {} to {}",
                        text.escape_default(),
                        range.start(),
                        range.end()
                    ),
                );
                default
            }
        }
    }

    pub(super) fn seconds(&mut self, name: &str, default: Seconds) -> Seconds {
        Seconds(self.bounded(name, default.0, 1..=LONGEST_SECONDS))
    }

    pub(super) fn yes_or_no(&mut self, name: &str, default: bool) -> bool {
        match self.text(name).map(str::to_lowercase).as_deref() {
            None => default,
            Some("true" | "yes" | "1" | "on") => true,
            Some("false" | "no" | "0" | "off") => false,
            Some(other) => {
                self.wrong(name, &format!("`{}` is neither true nor false", other.escape_default()));
                default
            }
        }
    }

    /// The first choice is the default.
    pub(super) fn one_of<T: Copy>(&mut self, name: &str, choices: &[(&str, T)]) -> T {
        let text = self.text(name);
        let found = choices.iter().find(|(word, _)| text.is_none_or(|text| text == *word));
        match found.or(choices.first()) {
            Some((word, value)) => {
                if text.is_some_and(|text| text != *word) {
                    let words: Vec<_> = choices.iter().map(|(word, _)| *word).collect();
                    self.wrong(
                        name,
                        &format!(
                            "`{}` is not one of: {}",
                            text.unwrap_or_default().escape_default(),
                            words.join(", ")
                        ),
                    );
                }
                *value
            }
            None => unreachable!("{name} has at least one choice"),
        }
    }

    /// A list; `none` is the empty one.
    pub(super) fn list_or(&mut self, name: &str, default: &[&str]) -> Vec<String> {
        match self.list(name) {
            given if given.is_empty() => default.iter().map(ToString::to_string).collect(),
            given if given == ["none"] => Vec::new(),
            given => given,
        }
    }

    pub(super) fn list(&mut self, name: &str) -> Vec<String> {
        let text = self.text(name).unwrap_or_default();
        text.split([',', '\n'])
            .map(str::trim)
            .filter(|item| !item.is_empty())
            .map(ToOwned::to_owned)
            .collect()
    }

    /// Paths below a directory, which may be written with it; `none` is the empty list.
    pub(super) fn paths_below(&mut self, name: &str, directory: &str) -> Vec<PathBelow> {
        let mut paths = Vec::new();
        for text in self.list_or(name, &[]) {
            match PathBelow::read(&text, directory) {
                Ok(path) => paths.push(path),
                Err(error) => self.wrong(name, &error.to_string()),
            }
        }
        paths
    }

    pub(super) fn path(&mut self, name: &str) -> Option<PathBuf> {
        self.text(name).map(PathBuf::from)
    }

    pub(super) fn existing_file(&mut self, name: &str) -> Option<PathBuf> {
        let path = self.path(name)?;
        match std::fs::metadata(&path) {
            Ok(metadata) if metadata.is_file() => {}
            Ok(_) => self.wrong(name, &format!("{} is not a file", path.display())),
            Err(error) => self.wrong(name, &format!("{} cannot be read: {error}", path.display())),
        }
        Some(path)
    }

    pub(super) fn secret(&mut self, name: &str) -> Option<SecretString> {
        let file_name = format!("{name}_file");
        let given = self.text(name);
        match (given, self.path(&file_name)) {
            (Some(_), Some(_)) => {
                self.wrong(name, &format!("given twice: remove it or {file_name}"));
                None
            }
            (Some(text), None) => Some(text.into()),
            (None, None) => None,
            (None, Some(path)) => match std::fs::read_to_string(&path) {
                Ok(text) if !text.trim().is_empty() => Some(text.trim().into()),
                Ok(_) => {
                    self.wrong(&file_name, &format!("{} is empty", path.display()));
                    None
                }
                Err(error) => {
                    self.wrong(&file_name, &format!("{} cannot be read: {error}", path.display()));
                    None
                }
            },
        }
    }

    pub(super) fn required_secret(&mut self, name: &str, what: &str) -> SecretString {
        let before = self.problems.len();
        self.secret(name).unwrap_or_else(|| {
            if self.problems.len() == before {
                self.wrong(name, &format!("missing: {what}"));
            }
            SecretString::default()
        })
    }

    /// `read:<sha256 in hex>` or `operate:<sha256 in hex>`, separated by commas.
    pub(super) fn api_tokens(&mut self, name: &str) -> Vec<ApiToken> {
        let mut tokens = Vec::new();
        for item in self.list(name) {
            let parsed = item.split_once(':').and_then(|(scope, hash)| {
                let scope = match scope {
                    "read" => Scope::Read,
                    "operate" => Scope::Operate,
                    _ => return None,
                };
                let mut sha256 = [0; 32];
                hex::decode_to_slice(hash, &mut sha256).ok()?;
                Some(ApiToken { scope, sha256 })
            });
            match parsed {
                Some(token) => tokens.push(token),
                // The item may be a bare token by mistake: never repeat it.
                None => self.wrong(
                    name,
                    "an entry is not `read:<sha256>` or `operate:<sha256>`; `warmspare token` makes one",
                ),
            }
        }
        tokens
    }

    pub(super) fn finish(mut self, config: Config) -> Result<Config, ConfigError> {
        for name in self.settings.keys().filter(|name| !self.asked.contains(*name)) {
            let text = match nearest(name, &self.asked) {
                Some(near) => format!("there is no such setting; did you mean {near}?"),
                None => "there is no such setting; `warmspare settings` lists them".to_owned(),
            };
            self.problems.push(Problem {
                setting: name.clone(),
                text,
            });
        }
        if self.problems.is_empty() {
            Ok(config)
        } else {
            Err(ConfigError(self.problems))
        }
    }
}

#[cfg(test)]
pub(super) fn names_read_by(settings: &BTreeMap<String, String>) -> BTreeSet<String> {
    let mut reader = Reader::new(settings);
    let _ = Config::read(&mut reader);
    reader.asked
}

/// The known name that differs in at most three edits.
fn nearest<'n>(name: &str, known: &'n BTreeSet<String>) -> Option<&'n str> {
    let distance = |candidate: &str| edit_distance(name.as_bytes(), candidate.as_bytes());
    known
        .iter()
        .map(|candidate| (distance(candidate), candidate))
        .min()
        .filter(|(edits, _)| *edits <= 3)
        .map(|(_, near)| near.as_str())
}

fn edit_distance(from: &[u8], to: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in to.iter().enumerate() {
            let substituted = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[to.len()]
}
