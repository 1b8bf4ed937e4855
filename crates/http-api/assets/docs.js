// Renders /openapi.json. Builds nodes and never markup, so that no text of the document becomes code.
"use strict";

const METHODS = ["get", "post", "put", "patch", "delete"];

function make(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) node.setAttribute(name, value);
  node.append(...children.filter((child) => child !== undefined && child !== null));
  return node;
}

function resolve(document_, value) {
  let seen = 0;
  while (value && value.$ref && seen++ < 20) {
    value = value.$ref.slice(2).split("/").reduce((at, key) => at?.[key.replace(/~1/g, "/").replace(/~0/g, "~")], document_);
  }
  return value ?? {};
}

function typeName(schema) {
  if (!schema) return "";
  if (schema.$ref) return schema.$ref.split("/").pop();
  const either = schema.oneOf ?? schema.anyOf;
  if (either) return either.map(typeName).join(" | ");
  if (schema.type === "array") return `${typeName(schema.items)}[]`;
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
  return [schema.type ?? "any"].flat().join(" | ") + (schema.format ? ` (${schema.format})` : "");
}

/** An example of a schema, made from its types; bounded in depth, since schemas may be circular. */
function example(document_, schema, depth = 0) {
  if (schema?.example !== undefined) return schema.example;
  if (schema?.default !== undefined) return schema.default;
  const it = resolve(document_, schema);
  if (it.example !== undefined) return it.example;
  if (depth > 6) return null;
  if (it.enum) return it.enum[0];
  const either = it.oneOf ?? it.anyOf;
  if (either) return example(document_, either.find((one) => one.type !== "null") ?? either[0], depth + 1);
  if (it.allOf) return Object.assign({}, ...it.allOf.map((one) => example(document_, one, depth + 1)));
  const type = [it.type].flat().find((one) => one !== "null");
  if (type === "object" || it.properties) {
    return Object.fromEntries(Object.entries(it.properties ?? {}).map(([name, property]) => [name, example(document_, property, depth + 1)]));
  }
  if (type === "array") return [example(document_, it.items, depth + 1)];
  if (type === "integer" || type === "number") return it.minimum ?? 0;
  if (type === "boolean") return false;
  if (type === "string") return it.format === "date-time" ? "2030-01-01T00:00:00Z" : "text";
  return null;
}

function body(document_, title, content) {
  const media = Object.entries(content ?? {});
  return media.map(([type, { schema }]) => make("div", {},
    make("p", {}, `${title}: `, make("code", {}, `${type} ${typeName(schema)}`)),
    type.includes("json") ? make("pre", {}, JSON.stringify(example(document_, schema), null, 2)) : null));
}

function operation(document_, path, method, it) {
  const parameters = (it.parameters ?? []).map((parameter) => resolve(document_, parameter));
  const rows = parameters.map((parameter) => make("tr", {},
    make("td", {}, make("code", {}, parameter.name)), make("td", {}, parameter.in),
    make("td", {}, typeName(parameter.schema) + (parameter.required ? ", required" : "")),
    make("td", {}, parameter.description ?? "")));
  const answers = Object.entries(it.responses ?? {}).map(([status, response]) => {
    const answer = resolve(document_, response);
    return make("tr", {}, make("td", {}, status), make("td", {}, answer.description ?? ""),
      make("td", {}, Object.values(answer.content ?? {}).map(({ schema }) => typeName(schema)).join(", ")));
  });
  const good = Object.entries(it.responses ?? {}).find(([status]) => status.startsWith("2"));
  const node = make("details", {},
    make("summary", {}, make("span", { class: "method" }, method.toUpperCase()), make("code", {}, path),
      make("span", { class: "soft" }, ` ${it.summary ?? ""}`)),
    it.description ? make("p", {}, it.description) : null,
    rows.length ? make("table", {}, make("tbody", {}, ...rows)) : null,
    ...body(document_, "Body", resolve(document_, it.requestBody).content),
    make("table", {}, make("tbody", {}, ...answers)),
    ...(good ? body(document_, `Answer ${good[0]}`, resolve(document_, good[1]).content) : []));
  node.dataset.words = `${method} ${path} ${it.summary ?? ""} ${it.description ?? ""}`.toLowerCase();
  return node;
}

async function show() {
  const main = document.getElementById("operations");
  const description = await (await fetch("/openapi.json")).json();
  const groups = new Map((description.tags ?? []).map((tag) => [tag.name, { text: tag.description, nodes: [] }]));
  for (const [path, item] of Object.entries(description.paths)) {
    for (const method of METHODS.filter((one) => item[one])) {
      const tag = item[method].tags?.[0] ?? "other";
      if (!groups.has(tag)) groups.set(tag, { text: "", nodes: [] });
      groups.get(tag).nodes.push(operation(description, path, method, item[method]));
    }
  }
  main.replaceChildren(...[...groups].filter(([, group]) => group.nodes.length).map(([tag, group]) =>
    make("section", {}, make("h2", {}, tag), make("p", { class: "soft" }, group.text ?? ""), ...group.nodes)));
  document.getElementById("filter").addEventListener("input", (event) => {
    const words = event.target.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const node of main.querySelectorAll("details")) {
      node.hidden = !words.every((word) => node.dataset.words.includes(word));
    }
  });
}

show().catch((error) => {
  document.getElementById("operations").replaceChildren(make("p", {}, `The description could not be loaded: ${error}`));
});
