// Keeps the figures fresh: asks for them every two seconds while the page is visible, and says so when the daemon is gone.
const PERIOD_MS = 2000;
const figures = document.getElementById("figures");

async function refresh() {
  if (document.hidden) return;
  try {
    const answer = await fetch("/?part=figures", { cache: "no-store" });
    if (answer.status === 401) return location.replace("/login"); // signed out, here or by a new token
    if (!answer.ok) throw new Error(answer.status);
    figures.innerHTML = await answer.text(); // escaped by the server's template; scripts in it would not run anyway
    figures.classList.remove("stale");
    figures.removeAttribute("title");
  } catch {
    figures.classList.add("stale");
    figures.title = "mlxd does not answer; these figures are old";
  }
}

setInterval(refresh, PERIOD_MS);
document.addEventListener("visibilitychange", refresh);

// What the login told this browser, for every change. Without it the page can only look: the cookie alone changes nothing.
const csrf = localStorage.getItem("mlxd-csrf");
document.getElementById(csrf ? "logout" : "looking").hidden = false;

document.getElementById("logout").addEventListener("click", async () => {
  const headers = { "Content-Type": "application/json", "X-MLXD-CSRF": csrf };
  await fetch("/api/logout", { method: "POST", headers, body: "{}" });
  localStorage.removeItem("mlxd-csrf");
  location.replace("/login");
});
