// The operator's token: kept in this tab's sessionStorage and nowhere else.

const KEY = "trackproxy-token";

let token = stored();

export const current = () => token;

/** Use TOKEN from now on; "" forgets it. */
export function use(value) {
  token = value.trim();
  try {
    if (token) sessionStorage.setItem(KEY, token);
    else sessionStorage.removeItem(KEY);
  } catch {
    // No storage: it lasts as long as the page.
  }
}

function stored() {
  try {
    return sessionStorage.getItem(KEY) ?? "";
  } catch {
    return "";
  }
}
