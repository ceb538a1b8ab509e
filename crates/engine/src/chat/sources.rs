//! Which templates a checkpoint has, and which one a conversation takes.

use serde_json::Value;

use super::error::ChatError;
use super::{ChatTemplate, RenderRequest};
use crate::tokenizer::{SpecialTokens, TokenizerFiles};

/// The chat templates of a checkpoint.
#[derive(Debug)]
pub struct ChatTemplates {
    templates: Vec<(String, ChatTemplate)>,
    shape: Shape,
}

/// Whether the checkpoint names its templates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Single,
    Named,
}

impl ChatTemplates {
    /// The templates among a checkpoint's tokenizer files; `None` if it has none.
    ///
    /// Template files (`chat_template.jinja`, `additional_chat_templates/`)
    /// win over the entry in `tokenizer_config.json`, as in transformers.
    ///
    /// # Errors
    /// [`ChatError::File`] if one of the files cannot be read as what it is.
    pub fn load(files: &TokenizerFiles) -> Result<Option<ChatTemplates>, ChatError> {
        let special = SpecialTokens::load(files)
            .map_err(|error| ChatError::File { file: error.file().to_owned(), message: error.to_string() })?;
        let mut sources = Vec::new();
        if let Some(template) = &files.chat_template {
            let file = "chat_template.jinja";
            sources.push(("default".to_owned(), file.to_owned(), text(file, template)?));
        }
        for (name, template) in &files.additional_chat_templates {
            let file = format!("additional_chat_templates/{name}.jinja");
            let template = text(&file, template)?;
            sources.retain(|(known, _, _)| known != name);
            sources.push((name.clone(), file, template));
        }
        let mut shape = match sources.as_slice() {
            [(name, _, _)] if name == "default" => Shape::Single,
            _ => Shape::Named,
        };
        if sources.is_empty() {
            (shape, sources) = from_config(files)?;
        }
        let templates: Vec<_> = sources
            .into_iter()
            .map(|(name, origin, source)| {
                let template = ChatTemplate::new(&origin, &source, &special);
                (name, template)
            })
            .collect();
        Ok((!templates.is_empty()).then_some(ChatTemplates { templates, shape }))
    }

    /// The names of the templates.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.templates.iter().map(|(name, _)| name.as_str())
    }

    /// The template of that name.
    ///
    /// # Errors
    /// [`ChatError::NoSuchTemplate`] with the names there are.
    pub fn named(&self, name: &str) -> Result<&ChatTemplate, ChatError> {
        self.find(name).ok_or_else(|| ChatError::NoSuchTemplate {
            name: name.to_owned(),
            names: self.names().map(str::to_owned).collect(),
        })
    }

    /// The template for a request: `tool_use` where there is one and tools
    /// are given (an empty list of tools counts as given), else `default`.
    ///
    /// # Errors
    /// [`ChatError::NoDefault`] if the templates have other names only.
    pub fn select(&self, request: &RenderRequest<'_>) -> Result<&ChatTemplate, ChatError> {
        if let (Shape::Single, [(_, only)]) = (self.shape, self.templates.as_slice()) {
            return Ok(only);
        }
        let for_tools = request.tools.and_then(|_| self.find("tool_use"));
        for_tools
            .or_else(|| self.find("default"))
            .ok_or_else(|| ChatError::NoDefault { names: self.names().map(str::to_owned).collect() })
    }

    /// Renders a request with the template it [selects](Self::select).
    ///
    /// # Errors
    /// As [`ChatTemplate::render`] and [`ChatTemplates::select`].
    pub fn render(&self, request: &RenderRequest<'_>) -> Result<String, ChatError> {
        self.select(request)?.render(request)
    }

    fn find(&self, name: &str) -> Option<&ChatTemplate> {
        self.templates.iter().find(|(known, _)| known == name).map(|(_, template)| template)
    }
}

/// Name, origin and text of a template.
type Source = (String, String, String);

fn text(file: &str, bytes: &[u8]) -> Result<String, ChatError> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.to_owned()),
        Err(error) => {
            Err(ChatError::File { file: file.to_owned(), message: format!("the template is not UTF-8: {error}") })
        }
    }
}

/// The `chat_template` entry: one template, or a list of named ones.
fn from_config(files: &TokenizerFiles) -> Result<(Shape, Vec<Source>), ChatError> {
    const FILE: &str = "tokenizer_config.json";
    let invalid = |message: String| ChatError::File { file: FILE.to_owned(), message };
    let Some(config) = &files.tokenizer_config else {
        return Ok((Shape::Single, Vec::new()));
    };
    let config: Value = serde_json::from_slice(config).map_err(|e| invalid(e.to_string()))?;
    match config.get("chat_template") {
        None | Some(Value::Null) => Ok((Shape::Single, Vec::new())),
        Some(Value::String(source)) => {
            let template = ("default".to_owned(), FILE.to_owned(), source.clone());
            Ok((Shape::Single, vec![template]))
        }
        Some(Value::Array(entries)) => {
            let mut sources: Vec<Source> = Vec::new();
            for entry in entries {
                let field = |name| entry.get(name).and_then(Value::as_str);
                let (Some(name), Some(source)) = (field("name"), field("template")) else {
                    return Err(invalid("an entry of `chat_template` lacks its `name` or its `template`".to_owned()));
                };
                let origin = format!("{FILE}, template {name}");
                sources.retain(|(known, _, _)| known != name);
                sources.push((name.to_owned(), origin, source.to_owned()));
            }
            Ok((Shape::Named, sources))
        }
        Some(_) => Err(invalid("`chat_template` is neither a template nor a list of named ones".to_owned())),
    }
}
