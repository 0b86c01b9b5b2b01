// Elements from data. Text goes in as text: names of cases and runs are never read as HTML.

export function element(tag, attributes = {}, children = []) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

// The JSON at an address; an Error with the server's sentence where there is none.
export async function json(url) {
  const answer = await answered(url);
  return answer.json();
}

export async function answered(url) {
  let answer;
  try {
    answer = await fetch(url);
  } catch {
    throw new Error("calf ui does not answer: does it still run in its terminal?");
  }
  if (!answer.ok) {
    const told = await answer.json().catch(() => ({}));
    throw new Error(told.error || `the server answered ${answer.status}`);
  }
  return answer;
}

export function address(path, values) {
  const given = Object.entries(values).filter(([, value]) => value !== null && value !== undefined && value !== "");
  return `${path}?${new URLSearchParams(given).toString().replaceAll("%2C", ",")}`;
}

// Rounded for reading; the whole number stands in a tooltip beside it.
export function rounded(value, digits) {
  return value === null || value === undefined ? "–" : value.toFixed(digits);
}
