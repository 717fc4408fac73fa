//! The parser of the serialized source. What it makes is bounded: nesting, and memory by [`Parser::left`].

use std::rc::Rc;

use super::ast::{Call, Class, Expr, Function, Name, Param, Stmt, StmtKind};
use super::fault::Fault;
use super::lexer::{Lexer, Token};

/// How deep expressions may be.
const MAX_DEPTH: u32 = 120;

/// What a node of the tree counts as, in bytes.
const NODE: usize = 96;

/// An expression and how deep it is.
type Deep = (Expr, u32);

/// Reads one file.
pub(crate) struct Parser<'s, 'b> {
    lexer: Lexer<'s>,
    token: Token,
    /// Where the current token begins.
    at: usize,
    nesting: u32,
    file: u32,
    /// Bytes that the trees of all files may still take, and what they might at first.
    left: &'b mut usize,
    limit: usize,
}

/// What is wrong, and the byte where.
pub(crate) type ParseResult<T> = Result<T, (usize, Fault)>;

/// Parses a file. `left` is what trees may take, in bytes, and is reduced by what this one takes.
pub(crate) fn parse(text: &str, file: u32, left: &mut usize) -> ParseResult<Vec<Stmt>> {
    let limit = *left;
    let lexer = Lexer::new(text);
    let mut parser = Parser { lexer, token: Token::End, at: 0, nesting: 0, file, left, limit };
    let result = parser.file();
    result.map_err(|fault| (parser.at, fault))
}

/// Binary operators: precedence and name in ATen.
fn binary(token: &Token) -> Option<(u8, &'static str)> {
    let Token::Mark(mark) = token else { return None };
    Some(match *mark {
        "|" => (5, "__or__"),
        "^" => (6, "__xor__"),
        "&" => (7, "__and__"),
        "<<" => (8, "__lshift__"),
        ">>" => (8, "__rshift__"),
        "+" => (9, "add"),
        "-" => (9, "sub"),
        "*" => (10, "mul"),
        "/" => (10, "div"),
        "//" => (10, "floordiv"),
        "%" => (10, "remainder"),
        "@" => (10, "matmul"),
        _ => return None,
    })
}

fn comparison(token: &Token) -> Option<&'static str> {
    let Token::Mark(mark) = token else { return None };
    Some(match *mark {
        "==" => "eq",
        "!=" => "ne",
        "<" => "lt",
        "<=" => "le",
        ">" => "gt",
        ">=" => "ge",
        _ => return None,
    })
}

impl Parser<'_, '_> {
    fn advance(&mut self) -> Result<Token, Fault> {
        let next = self.lexer.next()?;
        self.at = self.lexer.start();
        Ok(std::mem::replace(&mut self.token, next))
    }

    fn charge(&mut self) -> Result<(), Fault> {
        match self.left.checked_sub(NODE) {
            Some(left) => *self.left = left,
            None => return Err(Fault::Limit { what: "size of the source".to_owned(), limit: self.limit }),
        }
        Ok(())
    }

    fn is(&self, mark: &str) -> bool {
        matches!(&self.token, Token::Mark(m) if *m == mark)
    }

    fn is_word(&self, word: &str) -> bool {
        matches!(&self.token, Token::Word(w) if &**w == word)
    }

    fn eat(&mut self, mark: &str) -> Result<bool, Fault> {
        let is = self.is(mark);
        if is {
            self.advance()?;
        }
        Ok(is)
    }

    fn eat_word(&mut self, word: &str) -> Result<bool, Fault> {
        let is = self.is_word(word);
        if is {
            self.advance()?;
        }
        Ok(is)
    }

    fn expect(&mut self, mark: &str) -> Result<(), Fault> {
        if self.eat(mark)? { Ok(()) } else { Err(self.unexpected(&format!("`{mark}`"))) }
    }

    fn unexpected(&self, wanted: &str) -> Fault {
        let found = match &self.token {
            Token::Word(w) => format!("`{w:.40}`"),
            Token::Mark(m) => format!("`{m}`"),
            Token::Int(_) | Token::Float(_) | Token::Imaginary(_) => "a number".to_owned(),
            Token::Str(_) => "text".to_owned(),
            Token::Newline => "the end of the line".to_owned(),
            Token::Indent | Token::Dedent => "a change of indentation".to_owned(),
            Token::End => "the end of the file".to_owned(),
        };
        Fault::invalid(format!("expected {wanted}, found {found}"))
    }

    fn word(&mut self) -> Result<Name, Fault> {
        match &self.token {
            Token::Word(word) => {
                let word = word.clone();
                self.advance()?;
                Ok(word)
            }
            _ => Err(self.unexpected("a name")),
        }
    }

    fn file(&mut self) -> Result<Vec<Stmt>, Fault> {
        self.advance()?;
        let mut out = vec![];
        while self.token != Token::End {
            if self.token == Token::Newline {
                self.advance()?;
                continue;
            }
            out.push(self.statement()?);
        }
        Ok(out)
    }

    /// A block that stands further in, or the rest of the line.
    fn block(&mut self) -> Result<Rc<[Stmt]>, Fault> {
        // Blocks on one line nest without indentation.
        self.nest()?;
        let body = self.statements()?;
        self.nesting -= 1;
        Ok(body)
    }

    fn statements(&mut self) -> Result<Rc<[Stmt]>, Fault> {
        self.expect(":")?;
        let mut out = vec![];
        if self.token != Token::Newline {
            out.push(self.statement()?);
            return Ok(out.into());
        }
        self.advance()?;
        if self.token != Token::Indent {
            return Err(self.unexpected("an indented block"));
        }
        self.advance()?;
        while self.token != Token::Dedent && self.token != Token::End {
            if self.token == Token::Newline {
                self.advance()?;
                continue;
            }
            out.push(self.statement()?);
        }
        if self.token == Token::Dedent {
            self.advance()?;
        }
        Ok(out.into())
    }

    fn statement(&mut self) -> Result<Stmt, Fault> {
        self.charge()?;
        let at = u32::try_from(self.at).unwrap_or(u32::MAX);
        let keyword = match &self.token {
            Token::Word(word) => word.clone(),
            _ => "".into(),
        };
        let kind = match &*keyword {
            "class" => self.class()?,
            "def" => self.function(at)?,
            "if" => self.branch()?,
            "for" | "while" | "with" => self.loop_or_with(&keyword)?,
            _ => self.simple(&keyword)?,
        };
        Ok(Stmt { kind, at })
    }

    /// A statement of one line.
    fn simple(&mut self, keyword: &str) -> Result<StmtKind, Fault> {
        let kind = match keyword {
            "return" => {
                self.advance()?;
                if self.token == Token::Newline {
                    StmtKind::Return(Expr::None)
                } else {
                    StmtKind::Return(self.tuple_expr()?)
                }
            }
            "raise" => {
                self.advance()?;
                let value = if self.token == Token::Newline { None } else { Some(self.expr()?) };
                StmtKind::Raise(value)
            }
            "assert" => {
                self.advance()?;
                let condition = self.expr()?;
                let message = if self.eat(",")? { Some(self.expr()?) } else { None };
                StmtKind::Assert(condition, message)
            }
            "pass" => {
                self.advance()?;
                StmtKind::Pass
            }
            "del" => {
                self.advance()?;
                StmtKind::Delete(self.expr()?)
            }
            "break" | "continue" | "import" | "from" | "global" | "lambda" | "yield" | "try" | "async" => {
                return Err(Fault::invalid(format!("`{keyword}` has no place in serialized source")));
            }
            _ => self.assignment()?,
        };
        if !self.eat(";")? && self.token != Token::End && self.token != Token::Dedent {
            if self.token != Token::Newline {
                return Err(self.unexpected("the end of the line"));
            }
            self.advance()?;
        }
        Ok(kind)
    }

    /// Expressions with commas between; whether a comma is last.
    fn list_of(&mut self) -> Result<(Vec<Expr>, bool), Fault> {
        let mut out = vec![self.expr()?];
        while self.eat(",")? {
            if self.is("=") || self.token == Token::Newline {
                return Ok((out, true));
            }
            out.push(self.expr()?);
        }
        Ok((out, false))
    }

    fn tuple_expr(&mut self) -> Result<Expr, Fault> {
        let (mut list, comma) = self.list_of()?;
        match (list.len(), comma) {
            (1, false) => Ok(list.pop().unwrap_or(Expr::None)),
            _ => Ok(Expr::Tuple(list.into())),
        }
    }

    fn assignment(&mut self) -> Result<StmtKind, Fault> {
        let (mut targets, comma) = self.list_of()?;
        let mut annotation = None;
        if targets.len() == 1 && self.eat(":")? {
            let ty = self.expr()?;
            if !self.is("=") {
                return Ok(StmtKind::Declare(targets.pop().unwrap_or(Expr::None), ty));
            }
            annotation = Some(ty);
        }
        if !self.eat("=")? {
            return match (targets.pop(), targets.is_empty() && !comma) {
                (Some(only), true) => Ok(StmtKind::Expr(only)),
                _ => Err(self.unexpected("`=`")),
            };
        }
        for target in &targets {
            if !matches!(target, Expr::Name(_) | Expr::Attr(..) | Expr::Index(..)) {
                return Err(Fault::invalid("the left side of `=` is nothing to assign to"));
            }
        }
        let (mut values, last) = self.list_of()?;
        let single = targets.len() == 1 && !comma;
        if single && (values.len() > 1 || last) {
            values = vec![Expr::Tuple(values.into())];
        }
        let unpack = !single && values.len() == 1;
        if !unpack && values.len() != targets.len() {
            return Err(Fault::invalid(format!("{} values for {} targets", values.len(), targets.len())));
        }
        Ok(StmtKind::Assign { targets: targets.into(), unpack, annotation, values: values.into() })
    }

    fn class(&mut self) -> Result<StmtKind, Fault> {
        self.advance()?;
        let name = self.word()?;
        let mut base = None;
        if self.eat("(")? {
            if !self.is(")") {
                base = Some(self.expr()?);
            }
            self.expect(")")?;
        }
        let body = self.block()?;
        Ok(StmtKind::Class(Rc::new(Class { name, base, body })))
    }

    fn function(&mut self, at: u32) -> Result<StmtKind, Fault> {
        self.advance()?;
        let name = self.word()?;
        self.expect("(")?;
        let mut params = vec![];
        while !self.is(")") {
            self.charge()?;
            // A star says that what follows is given by name.
            if self.eat("*")? {
                self.eat(",")?;
                continue;
            }
            let name = self.word()?;
            let ty = if self.eat(":")? { Some(self.expr()?) } else { None };
            let default = if self.eat("=")? { Some(self.expr()?) } else { None };
            params.push(Param { name, ty, default });
            if !self.eat(",")? {
                break;
            }
        }
        self.expect(")")?;
        let returns = if self.eat("->")? { Some(self.expr()?) } else { None };
        let body = self.block()?;
        Ok(StmtKind::Def(Rc::new(Function { name, params, returns, body, file: self.file, at })))
    }

    fn branch(&mut self) -> Result<StmtKind, Fault> {
        self.advance()?;
        let condition = self.expr()?;
        let then = self.block()?;
        let otherwise: Rc<[Stmt]> = if self.is_word("elif") {
            self.nest()?;
            let at = u32::try_from(self.at).unwrap_or(u32::MAX);
            let kind = self.branch()?;
            self.nesting -= 1;
            [Stmt { kind, at }].into()
        } else if self.eat_word("else")? {
            self.block()?
        } else {
            [].into()
        };
        Ok(StmtKind::If(condition, then, otherwise))
    }

    fn loop_or_with(&mut self, keyword: &str) -> Result<StmtKind, Fault> {
        self.advance()?;
        match keyword {
            "for" => {
                // The names end where `in` begins, which is an operator elsewhere.
                let target = self.postfix()?.0;
                if !self.eat_word("in")? {
                    return Err(self.unexpected("`in`"));
                }
                let iterable = self.expr()?;
                Ok(StmtKind::For(target, iterable, self.block()?))
            }
            "while" => {
                let condition = self.expr()?;
                Ok(StmtKind::While(condition, self.block()?))
            }
            _ => {
                let value = self.expr()?;
                let name = if self.eat_word("as")? { Some(self.word()?) } else { None };
                Ok(StmtKind::With(value, name, self.block()?))
            }
        }
    }

    fn expr(&mut self) -> Result<Expr, Fault> {
        Ok(self.ternary()?.0)
    }

    fn nest(&mut self) -> Result<(), Fault> {
        self.nesting += 1;
        self.deep(self.nesting).map(|_| ())
    }

    /// One more than a depth, if so deep an expression may be.
    fn deep(&self, depth: u32) -> Result<u32, Fault> {
        if depth >= MAX_DEPTH {
            return Err(Fault::Limit {
                what: "nesting of expressions".to_owned(),
                limit: MAX_DEPTH as usize,
            });
        }
        Ok(depth + 1)
    }

    fn ternary(&mut self) -> Result<Deep, Fault> {
        self.nest()?;
        let (first, mut depth) = self.logic(0)?;
        let mut result = first;
        if self.eat_word("if")? {
            let (condition, c) = self.logic(0)?;
            if !self.eat_word("else")? {
                return Err(self.unexpected("`else`"));
            }
            let (other, o) = self.ternary()?;
            depth = self.deep(depth.max(c).max(o))?;
            result = Expr::Ternary(Box::new([condition, result, other]));
        }
        self.nesting -= 1;
        Ok((result, depth))
    }

    /// `or` (level 0) and `and` (level 1).
    fn logic(&mut self, level: u8) -> Result<Deep, Fault> {
        if level == 2 {
            return self.inverted();
        }
        let (mut left, mut depth) = self.logic(level + 1)?;
        while self.eat_word(if level == 0 { "or" } else { "and" })? {
            let (right, d) = self.logic(level + 1)?;
            depth = self.deep(depth.max(d))?;
            left = Expr::Logic { and: level == 1, operands: Box::new([left, right]) };
        }
        Ok((left, depth))
    }

    fn inverted(&mut self) -> Result<Deep, Fault> {
        if self.eat_word("not")? {
            self.nest()?;
            let (inner, depth) = self.inverted()?;
            self.nesting -= 1;
            return Ok((Expr::Operator("__not__", [inner].into()), self.deep(depth)?));
        }
        self.compared()
    }

    fn compared(&mut self) -> Result<Deep, Fault> {
        let (mut left, mut depth) = self.arithmetic(5)?;
        let mut is_first = true;
        loop {
            let name = match comparison(&self.token) {
                Some(name) => {
                    self.advance()?;
                    name
                }
                None if self.eat_word("is")? => match self.eat_word("not")? {
                    true => "__isnot__",
                    false => "__is__",
                },
                None if self.eat_word("in")? => "__contains__",
                None if self.is_word("not") => {
                    self.advance()?;
                    if !self.eat_word("in")? {
                        return Err(self.unexpected("`in`"));
                    }
                    "__not_contains__"
                }
                None => return Ok((left, depth)),
            };
            if !std::mem::take(&mut is_first) {
                return Err(Fault::invalid("comparisons form a chain"));
            }
            let (right, d) = self.arithmetic(5)?;
            depth = self.deep(depth.max(d))?;
            left = match name {
                "__contains__" => Expr::Operator(name, [right, left].into()),
                "__not_contains__" => {
                    let inner = Expr::Operator("__contains__", [right, left].into());
                    depth = self.deep(depth)?;
                    Expr::Operator("__not__", [inner].into())
                }
                _ => Expr::Operator(name, [left, right].into()),
            };
        }
    }

    fn arithmetic(&mut self, lowest: u8) -> Result<Deep, Fault> {
        let (mut left, mut depth) = self.unary()?;
        while let Some((precedence, name)) = binary(&self.token) {
            if precedence < lowest {
                break;
            }
            self.advance()?;
            let (right, d) = self.arithmetic(precedence + 1)?;
            depth = self.deep(depth.max(d))?;
            left = Expr::Operator(name, [left, right].into());
        }
        Ok((left, depth))
    }

    fn unary(&mut self) -> Result<Deep, Fault> {
        let name = match &self.token {
            Token::Mark("-") => "neg",
            Token::Mark("~") => "bitwise_not",
            Token::Mark("+") => "",
            _ => {
                let (base, depth) = self.postfix()?;
                if !self.eat("**")? {
                    return Ok((base, depth));
                }
                self.nest()?;
                let (power, d) = self.unary()?;
                self.nesting -= 1;
                return Ok((Expr::Operator("pow", [base, power].into()), self.deep(depth.max(d))?));
            }
        };
        self.advance()?;
        self.nest()?;
        let (inner, depth) = self.unary()?;
        self.nesting -= 1;
        Ok(match (name, inner) {
            ("neg", Expr::Int(n)) => (Expr::Int(n.wrapping_neg()), depth),
            ("neg", Expr::Float(x)) => (Expr::Float(-x), depth),
            ("", inner) => (inner, depth),
            (name, inner) => (Expr::Operator(name, [inner].into()), self.deep(depth)?),
        })
    }

    fn postfix(&mut self) -> Result<Deep, Fault> {
        self.charge()?;
        let (mut value, mut depth) = self.atom()?;
        loop {
            if self.eat(".")? {
                value = Expr::Attr(Box::new(value), self.word()?);
                depth = self.deep(depth)?;
            } else if self.is("(") {
                (value, depth) = self.call(value, depth)?;
            } else if self.eat("[")? {
                (value, depth) = self.subscript(value, depth)?;
            } else {
                return Ok((value, depth));
            }
            self.charge()?;
        }
    }

    fn call(&mut self, callee: Expr, mut depth: u32) -> Result<Deep, Fault> {
        self.expect("(")?;
        let (mut args, mut kwargs) = (vec![], vec![]);
        while !self.is(")") {
            let (value, d) = self.ternary()?;
            depth = depth.max(d);
            match value {
                Expr::Name(name) if self.eat("=")? => {
                    let (value, d) = self.ternary()?;
                    depth = depth.max(d);
                    kwargs.push((name, value));
                }
                value => args.push(value),
            }
            if !self.eat(",")? {
                break;
            }
        }
        self.expect(")")?;
        Ok((Expr::Call(Rc::new(Call { callee, args, kwargs })), self.deep(depth)?))
    }

    /// What stands between brackets behind a value.
    fn subscript(&mut self, value: Expr, mut depth: u32) -> Result<Deep, Fault> {
        let mut parts: Vec<Option<Expr>> = vec![];
        let mut items = vec![];
        while !self.is("]") {
            if self.eat(":")? {
                if parts.is_empty() {
                    parts.push(items.pop());
                }
                let end = self.is("]") || self.is(":");
                parts.push(match end {
                    true => None,
                    false => {
                        let (part, d) = self.ternary()?;
                        depth = depth.max(d);
                        Some(part)
                    }
                });
                continue;
            }
            let (item, d) = self.ternary()?;
            depth = depth.max(d);
            items.push(item);
            if !self.is(":") && !self.eat(",")? {
                break;
            }
        }
        self.expect("]")?;
        let depth = self.deep(depth)?;
        if !parts.is_empty() {
            if !items.is_empty() || parts.len() > 3 {
                return Err(Fault::invalid("an index holds a slice and more"));
            }
            parts.resize(3, None);
            let parts = <[Option<Expr>; 3]>::try_from(parts).map_err(|_| self.unexpected("a slice"))?;
            return Ok((Expr::Slice(Box::new(value), Box::new(parts)), depth));
        }
        let index = match items.len() {
            0 => return Err(self.unexpected("an index")),
            1 => items.pop().unwrap_or(Expr::None),
            _ => Expr::Tuple(items.into()),
        };
        Ok((Expr::Index(Box::new(value), Box::new(index)), depth))
    }

    /// Expressions up to a closing bracket; how deep they are, and whether a comma is last.
    fn items(&mut self, close: &str) -> Result<(Vec<Expr>, u32, bool), Fault> {
        let (mut out, mut depth, mut comma) = (vec![], 0, false);
        while !self.is(close) {
            let (item, d) = self.ternary()?;
            depth = depth.max(d);
            out.push(item);
            comma = self.eat(",")?;
            if !comma {
                break;
            }
        }
        self.expect(close)?;
        Ok((out, depth, comma))
    }

    fn atom(&mut self) -> Result<Deep, Fault> {
        let expr = match self.advance()? {
            Token::Int(n) => Expr::Int(n),
            Token::Float(x) => Expr::Float(x),
            Token::Imaginary(x) => Expr::Imaginary(x),
            Token::Str(text) => {
                if !matches!(self.token, Token::Str(_)) {
                    return Ok((Expr::Str(text), 1));
                }
                let mut whole = text.to_string();
                while let Token::Str(more) = &self.token {
                    whole.push_str(more);
                    self.advance()?;
                }
                Expr::Str(whole.into())
            }
            Token::Word(word) => match &*word {
                "None" => Expr::None,
                "True" => Expr::Bool(true),
                "False" => Expr::Bool(false),
                "inf" => Expr::Float(f64::INFINITY),
                "nan" => Expr::Float(f64::NAN),
                _ => Expr::Name(word),
            },
            Token::Mark("(") => {
                let (mut items, depth, comma) = self.items(")")?;
                return match (items.len(), comma) {
                    (1, false) => Ok((items.pop().unwrap_or(Expr::None), depth)),
                    _ => Ok((Expr::Tuple(items.into()), self.deep(depth)?)),
                };
            }
            Token::Mark("[") => {
                let (items, depth, _) = self.items("]")?;
                return Ok((Expr::List(items.into()), self.deep(depth)?));
            }
            Token::Mark("{") => return self.dict(),
            other => {
                self.token = other;
                return Err(self.unexpected("a value"));
            }
        };
        Ok((expr, 1))
    }

    fn dict(&mut self) -> Result<Deep, Fault> {
        let (mut pairs, mut depth) = (vec![], 0);
        while !self.is("}") {
            let (key, k) = self.ternary()?;
            self.expect(":")?;
            let (value, v) = self.ternary()?;
            depth = depth.max(k).max(v);
            pairs.push((key, value));
            if !self.eat(",")? {
                break;
            }
        }
        self.expect("}")?;
        Ok((Expr::Dict(pairs.into()), self.deep(depth)?))
    }
}
