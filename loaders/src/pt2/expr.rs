//! Expressions over symbolic sizes, as sympy prints them.

use kiln_ir::Dim;

/// How deep parentheses may stand in each other.
const MAX_DEPTH: usize = 64;

struct Parser<'a> {
    rest: &'a str,
    depth: usize,
    symbol: &'a dyn Fn(&str) -> Dim,
}

/// The dim that an expression stands for; `symbol` gives those of names. None if it is no such expression.
pub(super) fn parse(text: &str, symbol: &dyn Fn(&str) -> Dim) -> Option<Dim> {
    let mut parser = Parser { rest: text, depth: 0, symbol };
    let dim = parser.sum()?;
    (parser.rest.trim_start().is_empty() && !dim.is_unknown()).then_some(dim)
}

impl Parser<'_> {
    fn eat(&mut self, token: &str) -> bool {
        let rest = self.rest.trim_start();
        match rest.strip_prefix(token) {
            Some(after) => {
                self.rest = after;
                true
            }
            None => false,
        }
    }

    fn sum(&mut self) -> Option<Dim> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return None;
        }
        let mut total = self.product()?;
        loop {
            if self.eat("+") {
                total = total + self.product()?;
            } else if self.eat("-") {
                total = total - self.product()?;
            } else {
                self.depth -= 1;
                return Some(total);
            }
        }
    }

    fn product(&mut self) -> Option<Dim> {
        let mut total = self.power()?;
        loop {
            if self.eat("//") {
                total = total.floor_div(&self.power()?);
            } else if self.rest.trim_start().starts_with("**") {
                return None;
            } else if self.eat("*") {
                total = total * self.power()?;
            } else if self.eat("%") {
                total = total.modulo(&self.power()?);
            } else {
                return Some(total);
            }
        }
    }

    /// A sign binds weaker than a power.
    fn power(&mut self) -> Option<Dim> {
        if self.eat("-") {
            self.depth += 1;
            let power = if self.depth > MAX_DEPTH { None } else { self.power() };
            self.depth -= 1;
            return Some(Dim::known(0) - power?);
        }
        let base = self.atom()?;
        if !self.eat("**") {
            return Some(base);
        }
        let exponent = self.atom()?.as_known().filter(|e| (0..=8).contains(e))?;
        Some((0..exponent).fold(Dim::known(1), |a, _| a * base.clone()))
    }

    fn atom(&mut self) -> Option<Dim> {
        if self.eat("(") {
            let inner = self.sum()?;
            return self.eat(")").then_some(inner);
        }
        let rest = self.rest.trim_start();
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
        let word = rest.get(..end).filter(|word| !word.is_empty())?;
        self.rest = rest.get(end..)?;
        if word.starts_with(|c: char| c.is_ascii_digit()) {
            return word.parse().ok().map(Dim::known);
        }
        if !self.eat("(") {
            return Some((self.symbol)(word));
        }
        let first = self.sum()?;
        let mut others = vec![];
        while self.eat(",") {
            others.push(self.sum()?);
        }
        if !self.eat(")") {
            return None;
        }
        match (word, others.as_slice()) {
            ("FloorDiv" | "CleanDiv", [d]) => Some(first.floor_div(d)),
            ("Mod" | "PythonMod", [d]) => Some(first.modulo(d)),
            ("Max", more) => Some(more.iter().fold(first, |a, b| a.greater(b))),
            ("Min", more) => Some(more.iter().fold(first, |a, b| a.lesser(b))),
            ("TruncToInt" | "ToFloat", []) => Some(first),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions() {
        let s = |name: &str| Dim::symbol(name);
        let parsed = |text: &str| parse(text, &|name| Dim::symbol(name));
        assert_eq!(parsed("s0"), Some(s("s0")));
        assert_eq!(parsed("2*s77 + 1"), Some(Dim::known(2) * s("s77") + Dim::known(1)));
        assert_eq!(parsed("-s0 + (s1 - 3)"), Some(s("s1") - s("s0") - Dim::known(3)));
        assert_eq!(parsed("FloorDiv(s0, 2)"), Some(s("s0").floor_div(&Dim::known(2))));
        assert_eq!(parsed("((s0//2))"), Some(s("s0").floor_div(&Dim::known(2))));
        assert_eq!(parsed("Max(1, s0)"), Some(Dim::known(1).greater(&s("s0"))));
        assert_eq!(parsed("s0**2"), Some(s("s0") * s("s0")));
        assert_eq!(parsed("-s0**2"), Some(Dim::known(0) - s("s0") * s("s0")));
        assert_eq!(parsed("(-s0)**2"), Some(s("s0") * s("s0")));
        assert_eq!(parsed("Mod(s0, 0)"), None);
        for text in ["", "s0 +", "f(s0)", "(s0", "s0)", "1.5", "s0**s1", &"(".repeat(5000), &"-".repeat(5000)]
        {
            assert_eq!(parsed(text), None, "{text}");
        }
    }
}
