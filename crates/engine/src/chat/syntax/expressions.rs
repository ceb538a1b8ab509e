//! Expressions: parsed by Jinja's grammar, written as calls of functions.
//!
//! What comes out is parenthesised throughout, so the engine's own
//! precedences never matter.

use super::cursor::Tokens;
use super::strings::encode;
use super::tokens::Kind;
use super::{Result, error};

/// Longest text of an expression that error messages quote.
const MAX_QUOTE: usize = 60;

/// A parsed expression: its translation and what is needed to go on from it.
pub(super) struct Node {
    /// The expression for the engine.
    pub(super) code: String,
    /// What kind of expression it is.
    pub(super) shape: Shape,
    /// The template's own text, shortened, for messages.
    pub(super) quote: String,
}

/// The kinds of expression that matter to what follows them.
pub(super) enum Shape {
    Name,
    Attribute { object: String, name: String, quote: String },
    Constant,
    Call,
    Other,
}

impl Node {
    /// An expression of no particular kind.
    pub(super) fn new(code: String) -> Node {
        Node { code, shape: Shape::Other, quote: "the expression".to_owned() }
    }

    /// Whether this is a call, as `{% call %}` wants.
    pub(super) fn is_call(&self) -> bool {
        matches!(self.shape, Shape::Call)
    }

    /// The same, with the template's text of it.
    pub(super) fn quoted(mut self, quote: String) -> Node {
        if quote.chars().count() <= MAX_QUOTE {
            self.quote = quote;
        }
        self
    }
}

/// Whether `a if b else c` may stand without parentheses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Conditional {
    Allowed,
    NotHere,
}

impl<'a> Tokens<'a> {
    /// One expression.
    pub(super) fn expression(&mut self, conditional: Conditional) -> Result<Node> {
        self.deeper(|tokens| match conditional {
            Conditional::Allowed => tokens.conditional(),
            Conditional::NotHere => tokens.or(),
        })
    }

    /// An expression, or several with commas between them, which is a tuple.
    pub(super) fn tuple(&mut self, conditional: Conditional) -> Result<Node> {
        let first = self.expression(conditional)?;
        if !self.is_op(",") {
            return Ok(first);
        }
        let mut items = vec![first.code];
        while self.take_op(",") {
            let ends = match self.peek() {
                None | Some(Kind::Op(")" | "=" | "]")) => true,
                Some(Kind::Name(name)) => name == "recursive",
                _ => false,
            };
            if ends {
                break;
            }
            items.push(self.expression(conditional)?.code);
        }
        Ok(Node::new(tuple_code(&items)))
    }

    fn conditional(&mut self) -> Result<Node> {
        let mut node = self.or()?;
        while self.take_name("if") {
            let test = self.or()?;
            let code = if self.take_name("else") {
                let otherwise = self.deeper(Self::conditional)?;
                format!("({} if {} else {})", node.code, test.code, otherwise.code)
            } else {
                format!("({} if {})", node.code, test.code)
            };
            node = Node::new(code);
        }
        Ok(node)
    }

    fn or(&mut self) -> Result<Node> {
        let mut node = self.and()?;
        while self.take_name("or") {
            node = Node::new(format!("({} or {})", node.code, self.and()?.code));
        }
        Ok(node)
    }

    fn and(&mut self) -> Result<Node> {
        let mut node = self.not()?;
        while self.take_name("and") {
            node = Node::new(format!("({} and {})", node.code, self.not()?.code));
        }
        Ok(node)
    }

    fn not(&mut self) -> Result<Node> {
        if self.take_name("not") {
            let node = self.deeper(Self::not)?;
            return Ok(Node::new(format!("(not {})", node.code)));
        }
        self.comparison()
    }

    fn comparison(&mut self) -> Result<Node> {
        let mut left = self.sum()?;
        let mut code: Option<String> = None;
        loop {
            let op = match self.peek() {
                Some(Kind::Op(op @ ("==" | "!=" | "<" | "<=" | ">" | ">="))) => op,
                Some(Kind::Name(name)) if name == "in" => "in",
                Some(Kind::Name(name)) if name == "not" => {
                    match self.tokens.get(self.at + 1).map(|token| &token.kind) {
                        Some(Kind::Name(next)) if next == "in" => {
                            self.at += 1;
                            "not in"
                        }
                        _ => break,
                    }
                }
                _ => break,
            };
            let line = self.line();
            self.at += 1;
            let right = self.sum()?;
            let call = format!("__py_compare(\"{op}\", {}, {})", left.code, right.code);
            code = Some(match code {
                None => call,
                // A chain reads its middle operand twice in the translation.
                Some(_) if !matches!(left.shape, Shape::Name | Shape::Constant) => {
                    return error(line, "a chained comparison needs a plain name in its middle");
                }
                Some(before) => format!("({before} and {call})"),
            });
            left = right;
        }
        Ok(code.map_or(left, Node::new))
    }

    fn sum(&mut self) -> Result<Node> {
        let mut node = self.concat()?;
        loop {
            let function = match self.peek() {
                Some(Kind::Op("+")) => "add",
                Some(Kind::Op("-")) => "sub",
                _ => return Ok(node),
            };
            self.at += 1;
            let right = self.concat()?;
            node = binary(function, &node, &right);
        }
    }

    fn concat(&mut self) -> Result<Node> {
        let first = self.product()?;
        if !self.is_op("~") {
            return Ok(first);
        }
        let mut parts = vec![first.code];
        while self.take_op("~") {
            parts.push(self.product()?.code);
        }
        Ok(Node::new(format!("__py_concat({})", parts.join(", "))))
    }

    fn product(&mut self) -> Result<Node> {
        let mut node = self.power()?;
        loop {
            let function = match self.peek() {
                Some(Kind::Op("*")) => "mul",
                Some(Kind::Op("/")) => "div",
                Some(Kind::Op("//")) => "floor_div",
                Some(Kind::Op("%")) => "rem",
                _ => return Ok(node),
            };
            self.at += 1;
            let right = self.power()?;
            node = binary(function, &node, &right);
        }
    }

    fn power(&mut self) -> Result<Node> {
        let mut node = self.unary(Filters::Taken)?;
        while self.take_op("**") {
            let right = self.unary(Filters::Taken)?;
            node = binary("pow", &node, &right);
        }
        Ok(node)
    }

    fn unary(&mut self, filters: Filters) -> Result<Node> {
        let function = match self.peek() {
            Some(Kind::Op("-")) => Some("neg"),
            Some(Kind::Op("+")) => Some("pos"),
            _ => None,
        };
        let node = match function {
            None => self.primary()?,
            Some(function) => {
                self.at += 1;
                let operand = self.deeper(|tokens| tokens.unary(Filters::Left))?;
                Node::new(format!("__py_{function}({})", operand.code))
            }
        };
        let node = self.postfix(node)?;
        match filters {
            Filters::Taken => self.filters(node),
            Filters::Left => Ok(node),
        }
    }

    /// A name, a literal or something in brackets.
    pub(super) fn primary(&mut self) -> Result<Node> {
        let Some(kind) = self.peek() else {
            return self.unexpected("an expression");
        };
        let constant = |code: String| Node { shape: Shape::Constant, ..Node::new(code) };
        match kind {
            Kind::Name(name) => {
                self.at += 1;
                Ok(match name.as_str() {
                    "true" | "True" => constant("true".to_owned()),
                    "false" | "False" => constant("false".to_owned()),
                    "none" | "None" => constant("none".to_owned()),
                    _ => {
                        self.reads.push(name);
                        Node { code: name.clone(), shape: Shape::Name, quote: name.clone() }
                    }
                })
            }
            Kind::Text(_) => {
                let mut text = String::new();
                while let Some(Kind::Text(part)) = self.peek() {
                    text.push_str(part);
                    self.at += 1;
                }
                Ok(constant(encode(&text)))
            }
            Kind::Int(number) => {
                self.at += 1;
                Ok(constant(number.to_string()))
            }
            Kind::Float(number) => {
                self.at += 1;
                // Through text: the engine need not read an exponent.
                Ok(constant(format!("__py_float(\"{number:e}\")")))
            }
            Kind::Op("(") => {
                self.at += 1;
                if self.take_op(")") {
                    return Ok(Node::new("()".to_owned()));
                }
                let inner = self.tuple(Conditional::Allowed)?;
                self.expect_op(")")?;
                Ok(inner)
            }
            Kind::Op("[") => {
                self.at += 1;
                let items = self.separated("]", |tokens| Ok(tokens.expression(Conditional::Allowed)?.code))?;
                Ok(Node::new(format!("[{}]", items.join(", "))))
            }
            Kind::Op("{") => {
                self.at += 1;
                let entries = self.separated("}", |tokens| {
                    let key = tokens.expression(Conditional::Allowed)?;
                    tokens.expect_op(":")?;
                    let value = tokens.expression(Conditional::Allowed)?;
                    Ok(format!("__py_key({}): {}", key.code, value.code))
                })?;
                Ok(Node::new(format!("{{{}}}", entries.join(", "))))
            }
            Kind::Op(_) => self.unexpected("an expression"),
        }
    }

    /// Items with commas between them, up to the closing bracket.
    fn separated(&mut self, close: &str, item: impl Fn(&mut Self) -> Result<String>) -> Result<Vec<String>> {
        let mut items = Vec::new();
        while !self.take_op(close) {
            if !items.is_empty() {
                self.expect_op(",")?;
                if self.take_op(close) {
                    break;
                }
            }
            items.push(item(self)?);
        }
        Ok(items)
    }
}

/// Whether filters after an operand belong to it.
#[derive(Clone, Copy, PartialEq)]
enum Filters {
    Taken,
    Left,
}

fn binary(function: &str, left: &Node, right: &Node) -> Node {
    Node::new(format!("__py_{function}({}, {})", left.code, right.code))
}

fn tuple_code(items: &[String]) -> String {
    match items {
        [item] => format!("({item},)"),
        _ => format!("({})", items.join(", ")),
    }
}
