//! What follows an operand: attributes, items, calls, filters and tests.

use super::cursor::Tokens;
use super::expressions::{Conditional, Node, Shape};
use super::strings::encode;
use super::tokens::Kind;
use super::{Result, error};

impl Tokens<'_> {
    /// Attributes, items and calls after an expression.
    pub(super) fn postfix(&mut self, mut node: Node) -> Result<Node> {
        loop {
            if self.take_op(".") {
                node = self.attribute(node)?;
            } else if self.take_op("[") {
                node = self.subscript(&node)?;
            } else if self.is_op("(") {
                node = self.call(&node)?;
            } else {
                return Ok(node);
            }
        }
    }

    fn attribute(&mut self, node: Node) -> Result<Node> {
        if let Some(Kind::Int(index)) = self.peek() {
            self.at += 1;
            let quote = format!("{}.{index}", node.quote);
            let what = encode(&node.quote);
            let code = format!("__py_item({}, {index}, {what})", node.code);
            return Ok(Node::new(code).quoted(quote));
        }
        let name = self.name()?;
        let quote = format!("{}.{name}", node.quote);
        // The loop object is the engine's own.
        let code = if node.code == "loop" {
            format!("loop.{name}")
        } else {
            let what = encode(&node.quote);
            format!("__py_attribute({}, \"{name}\", {what})", node.code)
        };
        let shape = Shape::Attribute { object: node.code, name: name.to_owned(), quote: node.quote };
        Ok(Node { shape, ..Node::new(code) }.quoted(quote))
    }

    fn subscript(&mut self, node: &Node) -> Result<Node> {
        let what = encode(&node.quote);
        let mut bounds = [const { None }; 3];
        let mut colons = 0;
        loop {
            if self.is_op(":") && colons < 2 {
                self.at += 1;
                colons += 1;
            } else if self.take_op("]") {
                break;
            } else if bounds[colons].is_none() {
                bounds[colons] = Some(self.expression(Conditional::Allowed)?);
            } else {
                return self.unexpected("`]`");
            }
        }
        let quote = match &bounds[0] {
            Some(index) if index.code.starts_with('"') => {
                format!("{}[{}]", node.quote, index.code.replace('"', "'"))
            }
            Some(index) if matches!(index.shape, Shape::Name | Shape::Constant) => {
                format!("{}[{}]", node.quote, index.code)
            }
            _ => format!("{}[…]", node.quote),
        };
        if colons > 0 {
            let [start, stop, step] = bounds.map(|bound| bound.map_or_else(|| "none".to_owned(), |bound| bound.code));
            let code = format!("__py_slice({}, {start}, {stop}, {step}, {what})", node.code);
            return Ok(Node::new(code).quoted(quote));
        }
        let [Some(index), _, _] = bounds else {
            return self.unexpected("an index");
        };
        let code = format!("__py_item({}, {}, {what})", node.code, index.code);
        Ok(Node::new(code).quoted(quote))
    }

    fn call(&mut self, node: &Node) -> Result<Node> {
        let line = self.line();
        let quote = format!("{}()", node.quote);
        let code = match &node.shape {
            Shape::Attribute { object, name, .. } if object == "loop" => {
                let args = self.arguments(Wrap::Nothing)?;
                if args.is_empty() {
                    return error(line, format!("`loop.{name}()` needs an argument"));
                }
                format!("loop.{name}({})", args.join(", "))
            }
            Shape::Attribute { object, name, quote } => {
                let mut args = vec![object.clone(), encode(name), encode(quote)];
                args.extend(self.arguments(Wrap::Nothing)?);
                format!("__py_call({})", args.join(", "))
            }
            Shape::Name if node.code == "loop" => {
                let args = self.arguments(Wrap::Nothing)?;
                let [items] = args.as_slice() else {
                    return error(line, "`loop()` needs exactly one argument");
                };
                format!("loop(__py_listed({items}))")
            }
            Shape::Name if super::statements::GLOBALS.contains(&node.code.as_str()) => {
                format!("{}({})", node.code, self.arguments(Wrap::Nothing)?.join(", "))
            }
            _ => format!("{}({})", node.code, self.arguments(Wrap::Undefined)?.join(", ")),
        };
        Ok(Node { shape: Shape::Call, ..Node::new(code) }.quoted(quote))
    }

    /// The arguments of a call, brackets included.
    fn arguments(&mut self, wrap: Wrap) -> Result<Vec<String>> {
        self.expect_op("(")?;
        let mut names = Vec::new();
        let wrapped = |node: Node| match wrap {
            Wrap::Undefined => format!("__py_pass({})", node.code),
            Wrap::Nothing => node.code,
        };
        let mut arguments = Vec::new();
        while !self.take_op(")") {
            if !arguments.is_empty() {
                self.expect_op(",")?;
                if self.take_op(")") {
                    break;
                }
            }
            if self.is_op("*") || self.is_op("**") {
                return error(self.line(), "`*` and `**` arguments are not supported");
            }
            let keyword = match (self.peek(), self.tokens.get(self.at + 1)) {
                (Some(Kind::Name(name)), Some(next)) if next.kind == Kind::Op("=") => Some(name),
                _ => None,
            };
            if let Some(name) = keyword {
                if names.contains(&name) {
                    return error(self.line(), format!("the argument `{name}` is given twice"));
                }
                names.push(name);
                self.at += 2;
                let value = self.expression(Conditional::Allowed)?;
                arguments.push(format!("{name}={}", wrapped(value)));
            } else if names.is_empty() {
                let value = self.expression(Conditional::Allowed)?;
                arguments.push(wrapped(value));
            } else {
                return self.unexpected("a named argument, as the one before it is");
            }
        }
        Ok(arguments)
    }

    /// Filters and tests after an expression.
    pub(super) fn filters(&mut self, mut node: Node) -> Result<Node> {
        loop {
            if self.take_op("|") {
                let filter = self.filter_call()?;
                node = Node::new(format!("({}|{filter})", node.code));
            } else if self.take_name("is") {
                node = self.test(&node)?;
            } else if self.is_op("(") {
                node = self.call(&node)?;
            } else {
                return Ok(node);
            }
        }
    }

    /// A filter's name and arguments, after the bar.
    pub(super) fn filter_call(&mut self) -> Result<String> {
        let name = self.name()?;
        if !self.is_op("(") {
            return Ok(name.to_owned());
        }
        let args = self.arguments(Wrap::Nothing)?;
        Ok(format!("{name}({})", args.join(", ")))
    }

    fn test(&mut self, node: &Node) -> Result<Node> {
        let negated = self.take_name("not");
        let name = self.name()?;
        let args = match self.peek() {
            Some(Kind::Op("(")) => self.arguments(Wrap::Nothing)?,
            Some(Kind::Name(next)) if matches!(next.as_str(), "else" | "or" | "and") => Vec::new(),
            Some(Kind::Name(next)) if next == "is" => {
                return error(self.line(), "tests cannot be chained with `is`");
            }
            Some(Kind::Name(_) | Kind::Text(_) | Kind::Int(_) | Kind::Float(_)) | Some(Kind::Op("[" | "{")) => {
                let operand = self.primary()?;
                vec![self.postfix(operand)?.code]
            }
            _ => Vec::new(),
        };
        let not = if negated { "not " } else { "" };
        let call = if args.is_empty() { name.to_owned() } else { format!("{name}({})", args.join(", ")) };
        Ok(Node::new(format!("({not}({} is {call}))", node.code)))
    }
}

/// Whether arguments are marked when undefined; see
/// [`crate::chat::python::objects::PassedUndefined`].
#[derive(Clone, Copy)]
enum Wrap {
    Undefined,
    Nothing,
}
